"""Tells whose code reads the weights of a module, in a run without data. Judges nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


class _Described:
    """A tensor of a module in the hands of another's code; reports any use but that of its dtype
    and its device."""

    def __init__(self, tensor: torch.Tensor, on_read: Callable[[], None]) -> None:
        self._tensor = tensor
        self._on_read = on_read

    @property
    def dtype(self) -> torch.dtype:
        return self._tensor.dtype

    @property
    def device(self) -> torch.device:
        return self._tensor.device

    def __getattr__(self, name: str) -> Any:
        self._on_read()
        return getattr(self._tensor, name)

    def __getitem__(self, index: Any) -> Any:
        self._on_read()
        return self._tensor[index]

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*_plain(tuple(args)), **_plain(kwargs or {}))


def _plain(values: Any) -> Any:
    """The same values with tensors for what describes them."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, tuple | list):
        return type(values)(_plain(value) for value in values)
    if isinstance(values, _Described):
        values._on_read()
        return values._tensor
    return values


class WatchedTensors(dict[str, Any]):
    """A module's parameters or buffers; reports reads. `nn.Module` looks them up here."""

    def __init__(
        self, tensors: Mapping[str, Any], on_read: Callable[[], None], is_own: Callable[[], bool]
    ) -> None:
        """is_own: whether the code that runs is the module's own."""
        super().__init__(tensors)
        self._on_read = on_read
        self._is_own = is_own

    def __getitem__(self, name: str) -> Any:
        tensor = super().__getitem__(name)
        if tensor is not None and not self._is_own():
            return _Described(tensor, self._on_read)
        self._on_read()
        return tensor
