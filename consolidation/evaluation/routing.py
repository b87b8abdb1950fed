"""Records which expert each token prefers while a model runs. Does not change the run."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch


class RouterWatch:
    """Records, at the input of every experts module, the expert with the largest weight per token.

    Every mixture-of-experts model of transformers calls its experts with what its router chose:
    `experts(hidden (T, H), top_k_index (T, K), top_k_weights (T, K))`. Several threads may run the
    model at the same time; each sees its own tokens.
    """

    def __init__(self, model: Any, modules: Sequence[str]) -> None:
        self._here = threading.local()
        self._num_layers = len(modules)
        self._handles = [
            model.get_submodule(module).register_forward_pre_hook(self._hook(layer))
            for layer, module in enumerate(modules)
        ]

    def _hook(self, layer: int) -> Any:
        def see(_: Any, arguments: tuple[Any, ...]) -> None:
            seen = getattr(self._here, "seen", None)
            if seen is not None:
                _, index, weights = arguments
                first = weights.argmax(-1, keepdim=True)  # (T, 1)
                seen[layer] = index.gather(-1, first).squeeze(-1).to(torch.int32)

        return see

    @contextmanager
    def watching(self) -> Iterator[list[torch.Tensor]]:
        """Filled with one (T,) tensor of experts per layer as this thread runs the model."""
        seen = self._here.seen = [torch.empty(0, dtype=torch.int32)] * self._num_layers
        try:
            yield seen
        finally:
            self._here.seen = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
