"""Puts tensors into modules of a model on the meta device, and takes them out again. Reads none."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from consolidation.arithmetic.on_device import to_device


class Filling:
    """Tensors in modules, in place of those on the meta device, until the end of the context.

    Each is converted to the dtype of the one it stands for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before: list[tuple[dict[str, Any], str, torch.Tensor]] = []

    def put(self, module: nn.Module, name: str, tensor: torch.Tensor) -> None:
        """Fill a parameter or buffer of the module. Raises `ValueError` for another shape."""
        held: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
        there = held[name]
        if there.shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} instead of {tuple(there.shape)}")
        self._before.append((held, name, there))
        value = to_device(tensor, self.device).to(there.dtype)
        is_parameter = held is module._parameters
        held[name] = nn.Parameter(value, requires_grad=False) if is_parameter else value

    def put_all(self, root: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fill by name within the root."""
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            self.put(root.get_submodule(path), leaf, tensor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._before:
            held, name, there = self._before.pop()
            held[name] = there
