"""A published release of parts in many formats is served as its manifest says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from consolidation.release import (
    Blob,
    Layer,
    Manifest,
    Model,
    Part,
    Registry,
    ReleaseReader,
    Source,
)
from consolidation.release.tensors import encode_tensors
from serve_app.engine.engine import Engine
from serve_app.errors import EngineError, Unavailable
from tests.engine.running import (
    SMALL,
    answer,
    assert_golden,
    finish,
    greedy_requests,
    stage,
    until_all_can_be_had,
)
from tests.support.checkpoints import tiny_model
from tests.support.mixes import MixedSource, in_turn
from tests.support.sources import FakePart, expert_shape


def published(registry: Registry, source: MixedSource, model: torch.nn.Module) -> ReleaseReader:
    """A release of these parts. model: one of the family's, for shapes."""

    def blob(tensors: dict[str, torch.Tensor]) -> Blob:
        return registry.write_blob(encode_tensors(tensors))

    def part(fake: FakePart, tensors: dict[str, torch.Tensor]) -> Part:
        return Part(**blob(tensors).model_dump(), format=fake.format)

    layers = []
    for position, fake in enumerate(source.layers):
        slots = [part(p, source.read_slot(position, i)) for i, p in enumerate(fake.slots)]
        residuals = [
            part(p, source.read_residual(position, i)) for i, p in enumerate(fake.residuals)
        ]
        layers.append(
            Layer(
                module=fake.module,
                parameters=dict(expert_shape(model.get_submodule(fake.module)).parameters),
                transposed=fake.transposed,
                slots=tuple(slots),
                residuals=tuple(residuals),
            )
        )
    models = {
        name: Model(
            config=fake_model.config,
            generation_config={},
            tokenizer_files={},
            backbone=(registry.write_backbone(dict(source.read_backbone(name))),),
            expert_map=tuple(map(tuple, fake_model.expert_map)),
            residual_map=tuple(map(tuple, fake_model.residual_map)),
            source=Source(name=name, digest="0" * 64),
        )
        for name, fake_model in source.models.items()
    }
    manifest = Manifest(
        family="tiny",
        architecture=type(model).__name__,
        dtype="float32",
        layers=tuple(layers),
        models=models,
        expert_bytes_before=1,
        expert_bytes_after=1,
        expert_bytes_one_model=1,
        quality={},
        provenance={},
    )
    return ReleaseReader(registry, registry.publish(manifest))


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_a_published_release_takes_the_bytes_of_its_manifest_and_answers_as_its_experts(
    architecture: str, tmp_path: Path
) -> None:
    models = {f"m{seed}": tiny_model(architecture, seed) for seed in (1, 2)}
    source = MixedSource("any", models, in_turn("every expert in its own way"))
    reader = published(Registry(str(tmp_path), "tiny"), source, models["m1"])
    engine = Engine.open(reader, replace(SMALL, kv_tokens=128))
    outcomes: list[EngineError | None] = []
    engine.stage(reader, outcomes.append)
    finish(engine, {}, until=lambda: bool(outcomes))
    assert outcomes == [None]
    shelves = [s for layer in engine._packed.pool.values() for s in layer.shelves.values()]
    slabs = [tensor.untyped_storage() for shelf in shelves for tensor in shelf.tensors.values()]
    assert sum(slab.nbytes() for slab in slabs) == reader.manifest.expert_device_bytes
    requests = greedy_requests(models, [5, 20], max_tokens=6, release=reader.id)
    assert_golden(source.references(models), requests, answer(engine, requests))
    engine.close()


def test_files_that_change_in_place_change_no_answer(tmp_path: Path) -> None:
    models = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2)}
    source = MixedSource("any", models, in_turn("every expert in its own way"))
    reader = published(Registry(str(tmp_path), "tiny"), source, models["m1"])
    engine = Engine.open(reader, replace(SMALL, kv_tokens=128, num_places=1))
    outcomes: list[EngineError | None] = []
    engine.stage(reader, outcomes.append)
    finish(engine, {}, until=lambda: bool(outcomes))
    for number, blob in enumerate(sorted(tmp_path.glob("tiny/blobs/*"))):
        with blob.open("r+b") as file:
            if number % 2:
                file.write(bytes(blob.stat().st_size))
            else:
                file.truncate(0)  # what reads a mapping of it now dies
    requests = greedy_requests(models, [5, 20], max_tokens=6, release=reader.id)
    assert_golden(source.references(models), requests, answer(engine, requests))
    engine.close()


def test_a_damaged_backbone_takes_only_its_model_out_when_an_engine_starts(tmp_path: Path) -> None:
    models = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2)}
    source = MixedSource("any", models, in_turn("every expert in its own way"))
    reader = published(Registry(str(tmp_path), "tiny"), source, models["m1"])
    [blob] = reader.models["m2"].backbone
    [path] = (found for found in tmp_path.glob("tiny/blobs/*") if blob.digest in found.name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    now = [0.0]
    engine = Engine.open(reader, replace(SMALL, kv_tokens=128), clock=lambda: now[0])
    stage(engine, reader, may_lack=True)
    [there, out] = greedy_requests(models, [5], max_tokens=4, release=reader.id)
    with pytest.raises(Unavailable, match="model 'm2'"):
        engine.submit(out)
    references = source.references(models)
    assert_golden(references, [there], answer(engine, [there]))
    path.write_bytes(whole)
    now[0] = 1.0
    until_all_can_be_had(engine)
    assert_golden(references, [out], answer(engine, [out]))
    engine.close()
