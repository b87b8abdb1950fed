"""Weights that a model may have in float32 beside others in fewer bits. Holds no weights.

Checkpoints mix dtypes: float32 routers in a bfloat16 model. transformers runs some models so, and
others not, whose code multiplies tensors of two dtypes; those have all weights in one.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from representation.architecture.errors import Unservable

PRODUCTS = frozenset(
    {
        functional.linear,
        torch.bmm,
        torch.einsum,
        torch.matmul,
        torch.mm,
        torch.Tensor.__matmul__,
        torch.Tensor.bmm,
        torch.Tensor.matmul,
        torch.Tensor.mm,
    }
)


def widen(model: Any, names: Collection[str], run: Callable[[], object]) -> None:
    """Make these tensors of a model without data float32, as far as it still runs then.

    run: runs the model; Unservable if its code does not.   Those whose names differ in the number
    of the layer alone are made so together, or not at all.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    for group in groups.values():
        rooms = [_room(model, name) for name in group]
        before = [room[own] for room, own in rooms]
        for room, own in rooms:
            room[own] = _widened(room[own])
        if not _works(run):
            for (room, own), tensor in zip(rooms, before, strict=True):
                room[own] = tensor


class _ProductsOfOneDtype(TorchFunctionMode):
    """Raises where matrices of two dtypes are multiplied, as a device does; without data none."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in PRODUCTS:
            dtypes = {arg.dtype for arg in args if isinstance(arg, torch.Tensor)}
            if len(dtypes) > 1:
                raise RuntimeError(f"a product of {sorted(map(str, dtypes))}")
        return function(*args, **(kwargs or {}))


def _works(run: Callable[[], object]) -> bool:
    """Whether the model's code runs with the dtypes that its tensors have now."""
    try:
        with _ProductsOfOneDtype():
            run()
    except Unservable:
        return False
    return True


def _room(model: Any, name: str) -> tuple[dict[str, Any], str]:
    """Where a model has a tensor: its module's parameters or buffers, and its name there."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    return (module._parameters if own in module._parameters else module._buffers), own


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    wide = torch.empty_like(tensor, dtype=torch.float32)
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(wide, requires_grad=False) if is_parameter else wide
