"""Which expert each token prefers, by window and layer. Does not change the run that it watches."""

import torch

from consolidation.walk.asked import Asked
from consolidation.walk.streamed import Seen


class Routes:
    """The expert with the largest weight for every token.

    Every mixture-of-experts model of transformers calls its experts with what its router chose:
    `experts(hidden (T, H), top_k_index (T, K), top_k_weights (T, K))`.
    """

    def __init__(self, num_windows: int, num_layers: int) -> None:
        empty = torch.empty(0, dtype=torch.int32)
        self._found = [[empty] * num_layers for _ in range(num_windows)]

    def watch(self, window: int) -> Seen:
        """What is to see the experts while a window goes through a model."""

        def see(layer: int, asked: Asked) -> None:
            first = asked.weights.argmax(-1, keepdim=True)  # (T, 1)
            chosen = asked.index.gather(-1, first).squeeze(-1)  # (T,)
            self._found[window][layer] = chosen.to(torch.int32).cpu()

        return see

    def of(self, window: int) -> torch.Tensor:
        """(layers, T)"""
        return torch.stack(self._found[window])
