"""Vectors of modules around token mixers, as scales of layers: finds those that can be spread.

A module that mixes tokens cannot run once for each backbone. A vector that it only multiplies with
or adds to what it has of every token can be given by token instead: (p,) becomes (T, p).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from representation.architecture.errors import Unservable
from representation.architecture.skeleton import own_tensors
from representation.architecture.tracing.trace import TRACED_TOKENS, Trace

BROADCASTS = frozenset(
    getattr(torch.Tensor, name)
    for word in ("add", "mul", "sub")
    for name in (word, f"{word}_", f"__{word}__", f"__i{word}__", f"__r{word}__")
)


def spread_vectors(
    model: nn.Module, trace: Trace, again: Callable[[], Trace]
) -> dict[str, tuple[str, ...]]:
    """Modules around token mixers that own nothing but such vectors -> their names.

    trace: of the model.   again: runs the model without data once more.
    """
    found = {}
    for path, module in model.named_modules():
        names = tuple(own_tensors(module))
        around = any(other.startswith(f"{path}.") for other in trace.mixers)
        if path and names and around and all(_room(module, n)[n].dim() == 1 for n in names):
            found[path] = names
    return found if found and _can_be_spread(model, found, trace, again) else {}


def _can_be_spread(
    model: nn.Module,
    vectors: dict[str, tuple[str, ...]],
    trace: Trace,
    again: Callable[[], Trace],
) -> bool:
    rooms = [
        (_room(model.get_submodule(path), name), name)
        for path, names in vectors.items()
        for name in names
    ]
    before = [room[name] for room, name in rooms]
    spread = [vector.detach().expand(TRACED_TOKENS, -1) for vector in before]
    for (room, name), tensor in zip(rooms, spread, strict=True):
        room[name] = tensor
    try:
        with _OnlyBroadcast(spread):
            return again().axes == trace.axes
    except Unservable:
        return False
    finally:
        for (room, name), tensor in zip(rooms, before, strict=True):
            room[name] = tensor


def _room(module: nn.Module, name: str) -> dict[str, Any]:
    return module._parameters if name in module._parameters else module._buffers


class _OnlyBroadcast(TorchFunctionMode):
    """Raises where one of the tensors is given to any function but those of `BROADCASTS`."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self._watched = {id(tensor) for tensor in tensors}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = [*args, *(kwargs or {}).values()]
        if function not in BROADCASTS and any(id(one) in self._watched for one in given):
            raise RuntimeError(f"{function} is given a vector that differs by token")
        return function(*args, **(kwargs or {}))
