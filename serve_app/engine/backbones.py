"""Copies backbones into their places. Which place, and when, is decided by the scheduler."""

from collections.abc import Iterable

import torch

from serve_app.engine.packed import PackedModel
from serve_app.errors import LoadFailed


def load_backbone(
    packed: PackedModel, place: int, tensors: Iterable[tuple[str, torch.Tensor]], source: str
) -> None:
    """Fill one place of the stacks. `source` names the model in errors.

    A tensor over the vocabulary may be shorter than its stack; the rest of its rows are zeroed.
    Raises: LoadFailed where tensors are missing, unknown or of another shape; the place then
    holds nothing that may be used.
    """
    missing = set(packed.stacks.names())
    for name, tensor in tensors:
        try:
            stack = packed.stacks[name]
        except KeyError:
            raise LoadFailed(f"{source}: the architecture has no tensor {name!r}") from None
        _copy(stack[place], tensor, name in packed.vocabulary_names, f"{source}: {name}")
        missing.discard(packed.stacks.canonical(name))
    if missing:
        raise LoadFailed(f"{source}: {len(missing)} tensors are missing, {min(missing)!r} first")


def _copy(room: torch.Tensor, tensor: torch.Tensor, over_vocabulary: bool, what: str) -> None:
    """room: (V, …), or any shape   tensor: the same, or shorter where it is over the vocabulary"""
    fits = tensor.shape == room.shape
    if not fits and over_vocabulary and tensor.shape[1:] == room.shape[1:]:
        fits = tensor.shape[0] < room.shape[0]
    if not fits:
        raise LoadFailed(f"{what} is {tuple(tensor.shape)}, not {tuple(room.shape)}")
    if over_vocabulary:
        room[: tensor.shape[0]].copy_(tensor)
        room[tensor.shape[0] :].zero_()
    else:
        room.copy_(tensor)
