"""What layers are called with, kept once where inputs agree: masks and angles of equal lengths."""

from typing import Any

import torch

from consolidation.walk.layers import Keywords


class SharedKeywords:
    """Gives equal tensors back as one."""

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.Size, torch.dtype], list[torch.Tensor]] = {}

    def of(self, call: tuple[Keywords, ...]) -> tuple[Keywords, ...]:
        """The same call, by layer, with tensors that may be another call's."""
        return tuple({key: self._one(value) for key, value in layer.items()} for layer in call)

    def _one(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._one(part) for part in value)
        if not isinstance(value, torch.Tensor):
            return value
        kept = self._kept.setdefault((value.shape, value.dtype), [])
        for other in kept:
            if other is value or torch.equal(other, value):
                return other
        kept.append(value)
        return value
