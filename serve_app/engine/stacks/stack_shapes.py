"""The stacks for the backbones of an architecture, and a model's content in each. No tensors."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from representation.architecture.anatomy import Anatomy
from serve_app.engine.source import ModelLike, backbone_key

Kinds = Mapping[str, tuple[torch.Size, torch.dtype]]


@dataclass(frozen=True, slots=True)
class StackShape:
    """One row of a stack. members: its tensors, and how much of the first dimension each takes.

    Several tensors are side by side along that dimension.
    """

    members: Mapping[str, int]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def contents_of(
    model: ModelLike, shapes: Mapping[str, StackShape], canonical: Callable[[str], str]
) -> dict[str, str]:
    """The content of a model's backbone in each stack: equal for models with equal tensors there.

    canonical: the one name of a tied tensor. If the manifest has no digests, nothing in the
    backbone counts as equal to another's.
    """
    digests: dict[str, set[str]] = {}
    for blob in model.backbone:
        for name, digest in blob.tensors.items():
            digests.setdefault(canonical(name), set()).add(digest)
    contents = {}
    for stack, shape in shapes.items():
        known = ["|".join(sorted(digests.get(member, ()))) for member in shape.members]
        contents[stack] = " ".join(known) if all(known) else f"of {backbone_key(model)}"
    return contents


def tied_names(anatomy: Anatomy) -> dict[str, str]:
    """Names of tied tensors -> the name of the tensor that they are tied to."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in anatomy.model.state_dict(keep_vars=True).items():
        if name in anatomy.tensors and first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return tied


def unique_tensors(anatomy: Anatomy) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every backbone tensor, tied ones only once."""
    tied = tied_names(anatomy)
    return {name: value for name, value in anatomy.tensors.items() if name not in tied}


def joined_siblings(anatomy: Anatomy) -> tuple[tuple[str, ...], ...]:
    """Paths of the linear layers whose weights are side by side, in the order of calls."""
    tied = tied_names(anatomy)
    return tuple(
        paths
        for paths in anatomy.siblings
        if _alike(paths, anatomy.tensors, tied) and len({anatomy.units[p] for p in paths}) == 1
    )


def _alike(paths: Sequence[str], tensors: Kinds, tied: Mapping[str, str]) -> bool:
    """Whether the weights of linear layers can be side by side.

    tensors: shape and dtype of each, by name   tied: names that are another tensor's
    """
    names = [f"{path}.weight" for path in paths]
    if any(name not in tensors or name in tied or name in tied.values() for name in names):
        return False
    kinds = {(tensors[name][0][1], tensors[name][1]) for name in names}
    return len(kinds) == 1 and len({f"{path}.bias" in tensors for path in paths}) == 1


def stack_shapes(anatomy: Anatomy) -> dict[str, StackShape]:
    """The stacks of a model's backbones by name, in the order of the forward."""
    together: dict[str, list[str]] = {}
    for paths in joined_siblings(anatomy):
        for own in ("weight", "bias"):
            names = [f"{path}.{own}" for path in paths if f"{path}.{own}" in anatomy.tensors]
            together |= dict.fromkeys(names, names)
    shapes: dict[str, StackShape] = {}
    for name, (shape, dtype) in unique_tensors(anatomy).items():
        members = together.get(name, [name])
        sizes = [anatomy.tensors[member][0] for member in members]
        if len(members) > 1:
            lines = {member: size[0] for member, size in zip(members, sizes, strict=True)}
            shapes[members[0]] = StackShape(lines, (sum(lines.values()), *shape[1:]), dtype)
        else:
            shapes[name] = StackShape({name: 1}, tuple(shape), dtype)
    return shapes
