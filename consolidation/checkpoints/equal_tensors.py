"""Finds tensors of several models that differ by noise alone, and lets one stand for the others.

The base's stand first, where it has the models' dtype; then those that must stay as they are; then
the others', by name of the model. A tensor stands for a later one that is nearly equal to it. Each
is compared with tensors that stand, never with one that was replaced: small steps do not add up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from consolidation.arithmetic.last_place import nearly_equal, same_bits
from consolidation.arithmetic.on_device import CPU, to_device
from consolidation.checkpoints.checkpoint import BackboneSource, Checkpoint, ExpertsSource
from consolidation.checkpoints.family import BASE

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class EqualTask:
    """One layer's experts, or one part of the backbone, by owner in the order in which they stand.

    keep: owners whose tensors stay as they are.   device: that compares.
    """

    sources: tuple[tuple[str, ExpertsSource | BackboneSource], ...]
    keep: frozenset[str]
    dtype: torch.dtype
    device: torch.device = CPU

    @property
    def held_bytes(self) -> int:
        """The most bytes that are held together: one expert, or the part, of every owner."""
        return sum(
            source.num_bytes // (source.num_experts if isinstance(source, ExpertsSource) else 1)
            for _, source in self.sources
        )


def equal_tasks(
    checkpoints: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    exact: frozenset[str],
    device: torch.device = CPU,
) -> Iterator[tuple[str, EqualTask]]:
    """What to compare, each with the name of its experts module or of its part of the backbone."""
    first = next(iter(checkpoints.values()))
    # What an adapter changes, it changes on purpose: it is no noise, and stands for no other.
    adapted = {name for name, found in checkpoints.items() if found.adapter is not None}
    standing = sorted(checkpoints, key=lambda name: (name in adapted, name not in exact, name))
    owners = {name: checkpoints[name] for name in standing}
    if base is not None and base.dtype == first.dtype:
        owners = {BASE: base, **owners}
    keep = exact | adapted | {BASE}
    dtype = getattr(torch, first.dtype)
    for layer, source in enumerate(first.experts):
        experts = tuple((owner, found.experts[layer]) for owner, found in owners.items())
        yield source.module, EqualTask(experts, keep, dtype, device)
    for part in first.backbone:
        parts = (
            (o, p) for o, found in owners.items() for p in found.backbone if p.name == part.name
        )
        yield part.name, EqualTask(tuple(parts), keep, dtype, device)


def find_equal(task: EqualTask) -> list[list[Any]]:
    """What is replaced: [owner, index of the expert or name of the tensor, whose stands for it].

    What is the same to the bit is left out. Holds what stands of one expert or tensor at a time.
    """
    found: list[list[Any]] = []
    for key in _keys(task.sources[0][1]):
        standing: list[tuple[str, Tensors]] = []
        for owner, source in task.sources:
            read = _read(source, key)
            own = {name: to_device(tensor, task.device) for name, tensor in read.items()}
            if any(_alike(own, tensors, same_bits) for _, tensors in standing):
                continue
            stand_in = None
            if owner not in task.keep:
                stand_in = _nearest(own, standing, task.dtype)
            if stand_in is None:
                standing.append((owner, own))
            else:
                found.append([owner, key, stand_in])
    return found


def _nearest(
    own: Tensors, standing: Sequence[tuple[str, Tensors]], dtype: torch.dtype
) -> str | None:
    for owner, tensors in standing:
        if _alike(own, tensors, lambda one, other: nearly_equal(one, other, dtype)):
            return owner
    return None


def _alike(
    one: Tensors, other: Tensors, test: Callable[[torch.Tensor, torch.Tensor], bool]
) -> bool:
    return one.keys() == other.keys() and all(test(one[name], other[name]) for name in one)


def _keys(source: ExpertsSource | BackboneSource) -> Sequence[int | str]:
    if isinstance(source, ExpertsSource):
        return range(source.num_experts)
    return [name for name, _ in source.tensors]


def _read(source: ExpertsSource | BackboneSource, key: int | str) -> Tensors:
    if isinstance(source, ExpertsSource):
        return source.read(int(key))
    return replace(source, tensors=tuple(own for own in source.tensors if own[0] == key)).read()


def stand_ins_of(
    tasks: Sequence[tuple[str, EqualTask]], results: Sequence[list[list[Any]]]
) -> dict[str, dict[str, str]]:
    """By model, whose stands for what: tensors by name, experts as `<module>.<index>`."""
    found: dict[str, dict[str, str]] = {}
    for (module, _), result in zip(tasks, results, strict=True):
        for owner, key, stand_in in result:
            name = key if isinstance(key, str) else f"{module}.{key}"
            found.setdefault(owner, {})[name] = stand_in
    return found


def with_stand_ins(
    own: Checkpoint, stand_ins: Mapping[str, str], owners: Mapping[str, Checkpoint]
) -> Checkpoint:
    """A model whose tensors and experts are read from others where theirs stand for them."""
    experts = []
    for layer, source in enumerate(own.experts):
        names = {index: f"{source.module}.{index}" for index in range(source.num_experts)}
        others = {
            index: owners[stand_ins[name]].experts[layer]
            for index, name in names.items()
            if name in stand_ins
        }
        experts.append(replace(source, stand_ins=others) if others else source)
    conversions = {
        name: conversion
        for other in sorted(set(stand_ins.values()))
        for part in owners[other].backbone
        for name, conversion in part.tensors
        if stand_ins.get(name) == other
    }
    backbone = tuple(
        replace(part, tensors=tuple((name, conversions.get(name, c)) for name, c in part.tensors))
        for part in own.backbone
    )
    return replace(own, experts=tuple(experts), backbone=backbone)
