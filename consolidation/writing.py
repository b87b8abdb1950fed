"""Writing a planned release's blobs: runs the build tasks. Publishes nothing.

Slots whose content is in the registry already are not read again; blobs are content-addressed,
so what an earlier run or release wrote is used as it is.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from consolidation.build import (
    BackboneTask,
    LayerTask,
    Member,
    SlotRequest,
    build_backbone,
    build_layer,
)
from consolidation.errors import Refused
from consolidation.journal import Stages
from consolidation.plan import Slot
from consolidation.planning import Decision, Family
from consolidation.release import Blob, Layer, Part, Registry
from consolidation.release.manifest import canonical_json
from representation.formats import ExpertShape


@dataclass(frozen=True, slots=True)
class Written:
    """Blobs of a release: layers in full, the rest for new models by name."""

    layers: tuple[Layer, ...]
    backbones: Mapping[str, tuple[Blob, ...]]
    tokenizers: Mapping[str, dict[str, Blob]]
    sources: Mapping[str, str]


def write_release(
    registry: Registry, family: Family, decision: Decision, stages: Stages
) -> Written:
    """Write all slots and backbones that are not there yet. Raises `Failed`, `ReleaseError`."""
    layers = _write_layers(registry, family, decision, stages)
    backbones = _write_backbones(registry, family, stages)
    tokenizers = {name: _write_tokenizer(registry, family, name) for name in family.checkpoints}
    sources = {
        name: _source_digest(decision, backbones, tokenizers, family, name)
        for name in family.checkpoints
    }
    return Written(layers, backbones, tokenizers, sources)


def _write_layers(
    registry: Registry, family: Family, decision: Decision, stages: Stages
) -> tuple[Layer, ...]:
    plan = decision.plan
    tasks = []
    for layer, planned in enumerate(plan.layers):
        requests = tuple(
            SlotRequest(_members(family, layer, slot), slot.digest, plan.slot_bytes)
            for slot in planned.slots
            if not slot.kept
        )
        tasks.append((f"{layer}", LayerTask(registry.url, registry.family, requests)))
    results = stages.run(
        "build",
        build_layer,
        tasks,
        still_good=lambda blobs: all(registry.has_blob(Blob.model_validate(b)) for b in blobs),
    )
    found = []
    for layer, (planned, result) in enumerate(zip(plan.layers, results, strict=True)):
        kept = {}
        if family.extended is not None:
            kept = {slot.digest: slot for slot in family.extended.layers[layer].slots}
        built = iter(Part.model_validate(blob) for blob in result)
        slots = tuple(kept[s.digest or ""] if s.kept else next(built) for s in planned.slots)
        shape = _shape(family, layer)
        found.append(
            Layer(
                module=planned.module,
                parameters=dict(shape.parameters),
                transposed=shape.transposed,
                slots=slots,
            )
        )
    return tuple(found)


def _shape(family: Family, layer: int) -> ExpertShape:
    for checkpoint in family.checkpoints.values():
        return checkpoint.experts[layer].shape
    if family.extended is None or not family.extended.layers[layer].parameters:
        raise Refused("the release has schema_version 1: it is extended only by adding a model")
    return family.extended.layers[layer].shape


def _members(family: Family, layer: int, slot: Slot) -> tuple[Member, ...]:
    return tuple(
        Member(family.source(expert.model, layer), expert.index, count)
        for expert, count in slot.distinct
    )


def _write_backbones(
    registry: Registry, family: Family, stages: Stages
) -> dict[str, tuple[Blob, ...]]:
    tasks = [
        (f"{name} {part.name}", BackboneTask(registry.url, registry.family, part))
        for name, checkpoint in family.checkpoints.items()
        for part in checkpoint.backbone
    ]
    results = stages.run(
        "backbone",
        build_backbone,
        tasks,
        still_good=lambda blob: registry.has_blob(Blob.model_validate(blob)),
    )
    blobs = iter([Blob.model_validate(result) for result in results])
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
    decision: Decision,
    backbones: Mapping[str, tuple[Blob, ...]],
    tokenizers: Mapping[str, dict[str, Blob]],
    family: Family,
    name: str,
) -> str:
    """A digest of all a checkpoint holds, however it is laid out in files."""
    content = {
        "config": family.checkpoints[name].config,
        "experts": [list(scan.digests) for scan in decision.scans[name]],
        "backbone": [blob.digest for blob in backbones[name]],
        "tokenizer": {file: blob.digest for file, blob in tokenizers[name].items()},
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()
