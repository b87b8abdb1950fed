"""Writes a release from any source to a registry, with a tokenizer of made-up words."""

import tempfile
from pathlib import Path
from typing import Any, cast

from consolidation.release import (
    Blob,
    Layer,
    Manifest,
    Model,
    Part,
    Registry,
    Source,
    expert_bytes,
)
from consolidation.release.tensors import encode_tensors
from representation.text_fields import text_fields
from serve_app.bench.weights.word_tokenizer import tokenizer_of
from serve_app.engine.source import ReleaseSource


def publish(source: ReleaseSource, registry: Registry) -> str:
    """Writes everything that `source` reads, and returns the release's id. Moves no channel.

    Its slots must be dense, and it may have no residuals: `RandomRelease` as it is by default.
    """
    layers = tuple(_layer(source, registry, number) for number in range(len(source.layers)))
    made = {name: _model(source, registry, name) for name in sorted(source.models)}
    total = expert_bytes(layers, made)
    return registry.publish(
        Manifest(
            family=registry.family,
            architecture=str(next(iter(made.values())).config["model_type"]),
            dtype=cast(Any, source.dtype),
            layers=layers,
            models=made,
            expert_bytes_before=total * len(made),
            expert_bytes_after=total,
            expert_bytes_one_model=total,
            quality={},
            provenance={"weights": "random"},
        )
    )


def _layer(source: ReleaseSource, registry: Registry, number: int) -> Layer:
    layer = source.layers[number]
    assert not layer.residuals, "only releases without residuals are written here"
    slots = []
    shapes: dict[str, tuple[int, ...]] = {}
    for slot, part in enumerate(layer.slots):
        assert part.format == "dense", "only dense slots are written here"
        tensors = source.read_slot(number, slot)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        blob = registry.write_blob(encode_tensors(tensors))
        slots.append(Part(digest=blob.digest, bytes=blob.bytes))
    return Layer(
        module=layer.module, parameters=shapes, transposed=layer.transposed, slots=tuple(slots)
    )


def _model(source: ReleaseSource, registry: Registry, name: str) -> Model:
    model = source.models[name]
    backbone = registry.write_backbone(dict(source.read_backbone(name)))
    return Model(
        config=dict(model.config),
        generation_config={"do_sample": False},
        tokenizer_files=_tokenizer(registry, int(text_fields(model.config)["vocab_size"])),
        backbone=(backbone,),
        expert_map=tuple(tuple(row) for row in model.expert_map),
        source=Source(name=name, digest="0" * 64),
    )


def _tokenizer(registry: Registry, vocabulary: int) -> dict[str, Blob]:
    with tempfile.TemporaryDirectory(prefix="expertpool-tokenizer-") as place:
        tokenizer_of(vocabulary).save_pretrained(place)
        return {
            path.name: registry.write_blob(path.read_bytes(), suffix="bin")
            for path in sorted(Path(place).iterdir())
        }
