"""Which expert each token prefers, by window and layer. Does not change the run that it watches."""

from collections.abc import Sequence

import torch

from consolidation.walk.asked import Asked
from consolidation.walk.streamed import Seen

NONE = -1


class Routes:
    """The expert with the largest weight for every token; `NONE` where none takes it.

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
            chosen = asked.index.where(asked.taken(), NONE).gather(-1, first).squeeze(-1)  # (T,)
            self._found[window][layer] = chosen.to(torch.int32).cpu()

        return see

    def of(self, window: int) -> list[torch.Tensor]:
        """By layer, (T,) each: an encoder has other tokens than its decoder."""
        return self._found[window]

    def same(self, other: "Routes", window: int) -> tuple[torch.Tensor, ...]:
        """Which tokens of a window have the same expert in both. By layer, (T,) bool each."""
        layers = zip(self.of(window), other.of(window), strict=True)
        return tuple(one == two for one, two in layers)


def agreement(found: Sequence[Sequence[torch.Tensor]]) -> tuple[float, ...]:
    """By layer, the share of the tokens of several windows that have the same expert."""
    return tuple(float(torch.cat(layer).double().mean()) for layer in zip(*found, strict=True))
