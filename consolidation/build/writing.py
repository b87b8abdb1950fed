"""Writes the blobs of a planned release: runs the build tasks. Publishes nothing.

A slot whose content is already in the registry is not read again: blobs are content-addressed, so
those that an earlier run or release wrote are reused.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from consolidation.build.blobs import (
    BackboneTask,
    BuildTask,
    MemberRequest,
    Origin,
    SlotRequest,
    build_backbone,
    build_layer,
)
from consolidation.checkpoints.contents import Expert, NeuronOrder, User
from consolidation.checkpoints.family import Family
from consolidation.compare.part_form import AS_IT_IS
from consolidation.errors import Refused
from consolidation.plan.device_bytes import bytes_on
from consolidation.plan.study import Study
from consolidation.plan.task_bytes import build_bytes, tasks_at_once
from consolidation.plan.values import Held, Member, Plan, PlannedLayer
from consolidation.recipe import Recipe
from consolidation.release import BackboneBlob, Blob, Layer, Part, Registry
from consolidation.release.manifest import DTYPES
from consolidation.run.journal import Stages
from representation.canonical import canonical_json

TASK_BYTES = 256 << 20
"""How many bytes of experts, as they were stored, one task builds: so that cores end together."""


def write_experts(
    registry: Registry, recipe: Recipe, family: Family, study: Study, plan: Plan, stages: Stages
) -> tuple[Layer, ...]:
    """Write all missing slots and residuals of a plan. Raises `RunFailed`."""
    tasks = [
        (f"{task.layer} {number} {plan.digest}", task)
        for layer, planned in enumerate(plan.layers)
        for number, task in enumerate(_tasks(registry, recipe, family, study, layer, planned))
    ]
    layer_bytes = [family.layer_bytes(layer) for layer in range(len(plan.layers))]
    num_slots = Counter(task.layer for _, task in tasks for _ in task.slots)
    shapes = map(family.shape, range(len(plan.layers)))
    task_bytes = max(build_bytes(shape, len(plan.models)) for shape in shapes)
    results = stages.run(
        "build",
        build_layer,
        tasks,
        noun="parts of layers",
        sizes=[layer_bytes[t.layer] * len(t.slots) // num_slots[t.layer] for _, t in tasks],
        in_flight=tasks_at_once(task_bytes, max(layer_bytes)),
        task_bytes=task_bytes,
        device_bytes=bytes_on(recipe.device, task_bytes),
        still_good=lambda found: all(registry.has_blob(part) for part in _parts(found)),
    )
    built: list[list[Any]] = [[] for _ in plan.layers]
    for (_, task), result in zip(tasks, results, strict=True):
        built[task.layer] += result
    return tuple(
        _layer(family, layer, planned, result)
        for layer, (planned, result) in enumerate(zip(plan.layers, built, strict=True))
    )


def _tasks(
    registry: Registry,
    recipe: Recipe,
    family: Family,
    study: Study,
    layer: int,
    planned: PlannedLayer,
) -> Iterator[BuildTask]:
    """What to build for one layer, in parts of at most `TASK_BYTES` of experts, or of one slot."""
    one = study.layers[layer].sizes.slot(AS_IT_IS)
    part: list[SlotRequest] = []
    room = TASK_BYTES
    requests = list(_Requests(recipe, family, study, layer).of(planned))
    for number, request in enumerate(requests):
        part.append(request)
        room -= one * len(request.members)
        if room < one or number == len(requests) - 1:
            yield BuildTask(
                registry=registry.url,
                family=registry.family,
                layer=layer,
                shape=family.shape(layer),
                dtype=DTYPES[family.dtype],
                statistics=study.statistics,
                slots=tuple(part),
                device=recipe.device,
            )
            part, room = [], TASK_BYTES


class _Requests:
    """What to build for one layer."""

    def __init__(self, recipe: Recipe, family: Family, study: Study, layer: int) -> None:
        self._recipe = recipe
        self._family = family
        self._layer = layer
        self._sizes = study.layers[layer].sizes

    def of(self, planned: PlannedLayer) -> Iterator[SlotRequest]:
        """Kept slots that get residuals, then new slots."""
        for kept in planned.kept:
            if any(member.residuals for member in kept.members):
                assert self._family.extended is not None
                parts = self._family.extended.layers[self._layer].slot_parts(kept.index)
                yield SlotRequest((), (), self._members(kept.members), None, 0, parts)
        for slot in planned.slots:
            yield SlotRequest(
                holds=tuple((self._held(held), held.count) for held in slot.holds),
                forms=slot.forms,
                members=self._members(slot.members),
                digest=slot.digest,
                num_bytes=self._sizes.slot(slot.forms),
            )

    def _members(self, members: Sequence[Member]) -> tuple[MemberRequest, ...]:
        return tuple(
            MemberRequest(
                origin=self._origin(member.users[0], member.order),
                users=tuple(
                    User(u.model, u.index, self._recipe.weights.get(u.model, 1.0))
                    for u in member.users
                ),
                residuals=member.residuals,
                by_adapter=member.by_adapter,
            )
            for member in members
        )

    def _held(self, held: Held) -> Origin:
        source = self._family.source(held.model, self._layer)
        return self._ordered(Origin(source, held.index), held.order)

    def _origin(self, expert: Expert, order: NeuronOrder | None) -> Origin:
        return self._ordered(self._lying(expert), order)

    def _ordered(self, origin: Origin, order: NeuronOrder | None) -> Origin:
        if order is None:
            return origin
        return replace(origin, via=self._lying(order.via), reference=self._lying(order.reference))

    def _lying(self, expert: Expert) -> Origin:
        return Origin(self._family.source(expert.model, self._layer), expert.index)


def _layer(
    family: Family, number: int, planned: PlannedLayer, result: Sequence[Mapping[str, Any]]
) -> Layer:
    """The layer for the manifest: kept parts first, then built ones, in the order of the plan."""
    there = family.extended.layers[number] if family.extended is not None else None
    built = iter(result)
    places = iter(planned.parts)
    slots: list[Part] = []
    residuals: list[Part] = []
    if there is not None:
        for kept in planned.kept:
            slots += _neighbours(there.slot_parts(kept.index), next(places))
        residuals = [there.residuals[index] for index in planned.kept_residuals]
    for kept in planned.kept:
        if any(member.residuals for member in kept.members):
            residuals += _residuals(next(built))
    for found in built:
        slots += _neighbours(map(Part.model_validate, found["slot"]), next(places))
        residuals += _residuals(found)
    shape = family.shape(number)
    return Layer(
        module=planned.module,
        parameters=dict(shape.parameters),
        transposed=shape.transposed,
        slots=tuple(slots),
        residuals=tuple(residuals),
    )


def _neighbours(parts: Iterable[Part], places: range) -> list[Part]:
    """The parts of a slot, whose first names the others by their places in the layer."""
    first, *others = parts
    return [first.model_copy(update={"others": tuple(places[1:])}), *others]


def _residuals(found: Mapping[str, Any]) -> list[Part]:
    return [Part.model_validate(part) for member in found["residuals"] for part in member]


def _parts(found: Sequence[Mapping[str, Any]]) -> list[Part]:
    slots = [Part.model_validate(part) for one in found for part in one["slot"]]
    return slots + [part for one in found for part in _residuals(one)]


@dataclass(frozen=True, slots=True)
class Written:
    """What new models do not share, by name: blobs, and digests of the whole checkpoints."""

    backbones: Mapping[str, tuple[BackboneBlob, ...]]
    tokenizers: Mapping[str, dict[str, Blob]]
    sources: Mapping[str, str]


def write_backbones(registry: Registry, family: Family, study: Study, stages: Stages) -> Written:
    """Write all that is not an expert. Raises `RunFailed`, `Refused`, `ReleaseError`."""
    backbones = _write_backbones(registry, family, stages)
    tokenizers = {name: _write_tokenizer(registry, family, name) for name in family.checkpoints}
    sources = {
        name: _source_digest(study, backbones, tokenizers, family, name)
        for name in family.checkpoints
    }
    return Written(backbones, tokenizers, sources)


def _write_backbones(
    registry: Registry, family: Family, stages: Stages
) -> dict[str, tuple[BackboneBlob, ...]]:
    dtype = DTYPES[family.dtype]
    tasks = [
        (f"{name} {part.name}", BackboneTask(registry.url, registry.family, part, dtype))
        for name, checkpoint in family.checkpoints.items()
        for part in checkpoint.backbone
    ]
    results = stages.run(
        "backbone",
        build_backbone,
        tasks,
        noun="parts",
        sizes=[task.source.num_bytes for _, task in tasks],
        still_good=lambda blob: registry.has_blob(BackboneBlob.model_validate(blob)),
    )
    blobs = iter([BackboneBlob.model_validate(result) for result in results])
    return {
        name: tuple(next(blobs) for _ in checkpoint.backbone)
        for name, checkpoint in family.checkpoints.items()
    }


def _write_tokenizer(registry: Registry, family: Family, name: str) -> dict[str, Blob]:
    found = {}
    for file, path in family.checkpoints[name].tokenizer_files():
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Refused(f"cannot read {path}: {error.strerror}") from error
        found[file] = registry.write_blob(data, suffix="bin")
    return found


def _source_digest(
    study: Study,
    backbones: Mapping[str, tuple[BackboneBlob, ...]],
    tokenizers: Mapping[str, dict[str, Blob]],
    family: Family,
    name: str,
) -> str:
    """A digest of everything in a checkpoint, however it is split into files."""
    adapter = family.checkpoints[name].adapter
    content = {
        **({"adapter": adapter.digest()} if adapter is not None else {}),
        "config": family.checkpoints[name].config,
        "experts": [list(scan.digests) for scan in study.scans[name]],
        "backbone": [blob.digest for blob in backbones[name]],
        "tokenizer": {file: blob.digest for file, blob in tokenizers[name].items()},
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()
