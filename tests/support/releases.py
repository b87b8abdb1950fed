"""Releases written by hand: every expert in a slot of its own. Plans and measures nothing."""

from collections.abc import Mapping

from consolidation.checkpoints.checkpoint import Checkpoint, ExpertsSource
from consolidation.release import Layer, Manifest, Model, Part, Quality, Registry, Source
from consolidation.release import expert_bytes as bytes_of
from consolidation.release.tensors import encode_tensors


def publish(
    registry: Registry,
    models: Mapping[str, Checkpoint],
    experts: Mapping[str, Checkpoint],
    predicted: Mapping[str, float] | None = None,
) -> str:
    """A release of `models` in which each has the experts of its entry in `experts`; its id."""
    names = sorted(models)
    layers = []
    for place, source in enumerate(models[names[0]].experts):
        slots = [part for name in names for part in _slots(registry, experts[name].experts[place])]
        layers.append(
            Layer(
                module=source.module,
                parameters=dict(source.shape.parameters),
                transposed=source.shape.transposed,
                slots=tuple(slots),
            )
        )
    made = {name: _model(registry, models[name], index) for index, name in enumerate(names)}
    one = models[names[0]].expert_bytes
    quality = {
        name: Quality(
            kl=0.0, perplexity_original=1.0, perplexity_release=1.0, tokens=1, predicted_kl=value
        )
        for name, value in (predicted or {}).items()
    }
    return registry.publish(
        Manifest(
            family=registry.family,
            architecture=models[names[0]].architecture,
            dtype=models[names[0]].dtype,
            layers=tuple(layers),
            models=made,
            expert_bytes_before=one * len(names),
            expert_bytes_after=bytes_of(layers, made),
            expert_bytes_one_model=one,
            quality=quality,
            provenance={},
        )
    )


def _slots(registry: Registry, source: ExpertsSource) -> list[Part]:
    blobs = [
        registry.write_blob(encode_tensors(source.read(index)))
        for index in range(source.num_experts)
    ]
    return [Part(digest=blob.digest, bytes=blob.bytes) for blob in blobs]


def _model(registry: Registry, checkpoint: Checkpoint, place: int) -> Model:
    """The `place`-th model's experts are the `place`-th run of slots."""
    rows = [
        tuple(range(place * layer.num_experts, (place + 1) * layer.num_experts))
        for layer in checkpoint.experts
    ]
    return Model(
        config=checkpoint.config,
        generation_config=checkpoint.generation_config,
        tokenizer_files={},
        backbone=tuple(registry.write_backbone(part.read()) for part in checkpoint.backbone),
        expert_map=tuple(rows),
        source=Source(name=checkpoint.name, digest="0" * 64),
    )
