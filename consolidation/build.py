"""Build: writes slots and backbones as blobs. Decides nothing; returns digests and sizes.

A slot that holds one expert holds its exact bytes. A shared one holds the mean of its members,
each counted as often as models use it, taken in float64 and rounded to the stored dtype: of all
tensors this is the one with the least sum of squared errors. Never more than one expert is read
at a time, so memory is a few times one expert's.
"""

from dataclasses import dataclass
from typing import Any

import torch

from consolidation.checkpoint import BackboneSource, ExpertsSource
from consolidation.errors import Failed
from consolidation.release import Blob, Registry
from consolidation.release.tensors import encode_tensors


@dataclass(frozen=True, slots=True)
class Member:
    """An expert whose content goes into a slot, and how many experts have that content."""

    source: ExpertsSource
    index: int
    count: int


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """One slot to write. `digest` is what the blob must turn out to be, where that is known."""

    members: tuple[Member, ...]
    digest: str | None
    num_bytes: int


@dataclass(frozen=True, slots=True)
class LayerTask:
    """All slots of one layer that are to be written."""

    registry: str
    family: str
    slots: tuple[SlotRequest, ...]


@dataclass(frozen=True, slots=True)
class BackboneTask:
    """One blob of one model's backbone."""

    registry: str
    family: str
    source: BackboneSource


def build_layer(task: LayerTask) -> list[dict[str, Any]]:
    """Write the slots that are not there yet; their blobs, in order. Raises `Failed`."""
    registry = Registry(task.registry, task.family)
    return [_build_slot(registry, slot).model_dump() for slot in task.slots]


def build_backbone(task: BackboneTask) -> dict[str, Any]:
    """Write one blob of a backbone."""
    data = encode_tensors(task.source.read())
    return Registry(task.registry, task.family).write_blob(data).model_dump()


def _build_slot(registry: Registry, slot: SlotRequest) -> Blob:
    if slot.digest is None:
        return registry.write_blob(encode_tensors(mean_expert(slot.members)))
    there = Blob(digest=slot.digest, bytes=slot.num_bytes)
    if registry.has_blob(there):
        return there
    (member,) = slot.members
    blob = registry.write_blob(encode_tensors(member.source.read(member.index)))
    if blob != there:
        raise Failed(
            f"{member.source.module}, expert {member.index}: the checkpoint has changed "
            "since it was scanned"
        )
    return blob


def mean_expert(members: tuple[Member, ...]) -> dict[str, torch.Tensor]:
    """The mean of experts, weighted by their counts, in their own dtype."""
    total = sum(member.count for member in members)
    sums: dict[str, torch.Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for member in members:
        for name, tensor in member.source.read(member.index).items():
            dtypes[name] = tensor.dtype
            if name not in sums:
                sums[name] = torch.zeros(tensor.shape, dtype=torch.float64)
            for part, added in zip(_parts(sums[name]), _parts(tensor), strict=True):
                part.add_(added.double(), alpha=member.count)
    return {name: value.div_(total).to(dtypes[name]) for name, value in sums.items()}


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of a bounded size, so that converting a part is cheap."""
    return torch.split(tensor.reshape(-1), 1 << 22)
