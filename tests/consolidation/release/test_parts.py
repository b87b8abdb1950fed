"""Releases whose experts are sums of parts: read back, put together, and judged as such."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused, RunFailed
from consolidation.evaluation.validate import ModelTask, check_exact
from consolidation.evaluation.verify import verify
from consolidation.release import (
    Damaged,
    Layer,
    Manifest,
    Part,
    Registry,
    ReleaseReader,
    expert_bytes,
    expert_map_bytes,
    read_expert,
    residual_map_bytes,
)
from consolidation.release.manifest import release_id
from consolidation.release.tensors import encode_tensors
from consolidation.walk.streamed import StreamedModel
from representation.canonical import canonical_json
from representation.formats import DENSE, Format, LowRank, Packed, dense_expert
from tests.consolidation.running import manifest_of, run
from tests.support.checkpoints import write_checkpoint
from tests.support.parts import random_part
from tests.support.whole_models import assemble

SLOT, BITS, FACTORS = Packed(4, 8), Packed(1, 32), LowRank(2)
NUM_EXPERTS = 4


@dataclass(frozen=True)
class Mixed:
    """A release of one model: expert 0 has a packed slot of its own, 1 a residual, 2 two."""

    registry: Registry
    manifest: Manifest
    checkpoint: Path

    @property
    def reader(self) -> ReleaseReader:
        return ReleaseReader(self.registry, self.manifest.id)


@pytest.fixture(scope="module", params=["mixtral", "gpt_oss"])
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    root = tmp_path_factory.mktemp("mixed")
    checkpoint = write_checkpoint(root / "m", request.param, dtype=torch.bfloat16)
    plain = manifest_of(run(root / "r", {"m": checkpoint}))
    registry = Registry(str(root / "r"), "fam")
    layers = tuple(_mixed_layer(registry, layer, 10 * i) for i, layer in enumerate(plain.layers))
    model = plain.models["m"].model_copy(
        update={
            "expert_map": tuple((NUM_EXPERTS, 1, 1, 3) for _ in layers),
            "residual_map": tuple(((), (0,), (0, 1), ()) for _ in layers),
        }
    )
    changed = {"layers": layers, "models": {"m": model}}
    manifest = Manifest.model_validate({**dict(plain), **changed})
    registry.publish(manifest)
    return Mixed(registry, manifest, checkpoint)


def _mixed_layer(registry: Registry, layer: Layer, seed: int) -> Layer:
    def part(fmt: Format, number: int, *, residual: bool) -> Part:
        tensors = random_part(
            layer.shape, fmt, torch.bfloat16, residual=residual, seed=seed + number
        )
        blob = registry.write_blob(encode_tensors(tensors))
        return Part(digest=blob.digest, bytes=blob.bytes, format=str(fmt))

    added = part(SLOT, 0, residual=False)
    residuals = (part(BITS, 1, residual=True), part(FACTORS, 2, residual=True))
    return layer.model_copy(update={"slots": (*layer.slots, added), "residuals": residuals})


def _expected(mixed: Mixed, layer: int) -> Iterator[dict[str, torch.Tensor]]:
    reader, shape = mixed.reader, mixed.manifest.layers[layer].shape
    bits, factors = ((fmt, reader.read_residual(layer, i)) for i, fmt in enumerate([BITS, FACTORS]))
    one = (DENSE, reader.read_slot(layer, 1))
    yield dense_expert([(SLOT, reader.read_slot(layer, NUM_EXPERTS))], shape)
    yield dense_expert([one, bits], shape)
    yield dense_expert([one, bits, factors], shape)
    yield dense_expert([(DENSE, reader.read_slot(layer, 3))], shape)


def _stacked(mixed: Mixed) -> dict[str, torch.Tensor]:
    found = {}
    for number, layer in enumerate(mixed.manifest.layers):
        experts = list(_expected(mixed, number))
        for name in layer.parameters:
            found[f"{layer.module}.{name}"] = torch.stack([expert[name] for expert in experts])
    return found


def test_an_expert_is_read_as_the_sum_of_its_parts(mixed: Mixed) -> None:
    for layer in range(len(mixed.manifest.layers)):
        for index, expected in enumerate(_expected(mixed, layer)):
            found = mixed.reader.expert("m", layer, index)
            assert found.keys() == expected.keys()
            for name, tensor in found.items():
                assert torch.equal(tensor, expected[name])


def test_a_model_is_put_together_from_sums_of_parts(mixed: Mixed) -> None:
    state = assemble(mixed.reader, "m").state_dict()
    for name, tensor in _stacked(mixed).items():
        assert torch.equal(state[name], tensor), name


def _task(
    mixed: Mixed, experts: tuple[tuple[tuple[Part, ...], ...], ...], *, merged: bool
) -> ModelTask:
    return ModelTask(
        name="m",
        checkpoint=open_checkpoint(mixed.checkpoint),
        registry=mixed.registry.url,
        family="fam",
        experts=experts,
        backbone=mixed.manifest.models["m"].backbone,
        merged=merged,
        windows=(),
    )


def test_what_is_judged_has_the_parts_that_were_written(mixed: Mixed) -> None:
    layers = mixed.manifest.layers
    plain = tuple(tuple((slot,) for slot in layer.slots[:NUM_EXPERTS]) for layer in layers)
    check_exact(_task(mixed, plain, merged=False))
    parts = tuple(
        tuple(
            (layer.slots[slot], *(layer.residuals[i] for i in residuals))
            for slot, residuals in zip((NUM_EXPERTS, 1, 1, 3), ((), (0,), (0, 1), ()), strict=True)
        )
        for layer in layers
    )
    with pytest.raises(RunFailed, match=r"experts\.0\.\w+ did not come back exactly"):
        check_exact(_task(mixed, parts, merged=False))
    task = _task(mixed, parts, merged=True)
    check_exact(task)
    model = StreamedModel(task.released)
    wanted = _stacked(mixed)
    for number, layer in enumerate(layers):
        read = [model.expert_reader(number)(index) for index in range(NUM_EXPERTS)]
        for name in read[0]:
            path = f"{layer.module}.{name}"
            assert torch.equal(torch.stack([expert[name] for expert in read]), wanted[path]), path


def test_bytes_count_every_distinct_file_and_every_map(mixed: Mixed) -> None:
    manifest = mixed.manifest
    parts = {
        part.digest: part.bytes
        for layer in manifest.layers
        for part in (*layer.slots, *layer.residuals)
    }
    maps = len(b"[[4,1,1,3],[4,1,1,3],[4,1,1,3]]")
    maps += len(b"[[[],[0],[0,1],[]],[[],[0],[0,1],[]],[[],[0],[0,1],[]]]")
    assert expert_bytes(manifest.layers, manifest.models) == sum(parts.values()) + maps
    model = manifest.models["m"]
    assert expert_map_bytes(model.expert_map) + residual_map_bytes(model.residual_map) == maps
    assert residual_map_bytes(()) == 0


def test_device_bytes_are_those_of_the_tensors(mixed: Mixed) -> None:
    read = 0
    for number, layer in enumerate(mixed.manifest.layers):
        slots = (mixed.reader.read_slot(number, i) for i in range(len(layer.slots)))
        residuals = (mixed.reader.read_residual(number, i) for i in range(len(layer.residuals)))
        for tensors in (*slots, *residuals):
            read += sum(tensor.nbytes for tensor in tensors.values())
    assert mixed.manifest.expert_device_bytes == read


def test_a_part_that_is_listed_twice_is_held_once(mixed: Mixed) -> None:
    layer = mixed.manifest.layers[0]
    twice = layer.model_copy(update={"residuals": (*layer.residuals, layer.residuals[0])})
    assert twice.device_bytes("bfloat16") == layer.device_bytes("bfloat16")
    size = BITS.num_bytes(layer.shape, torch.bfloat16, residual=True)
    less = layer.model_copy(update={"residuals": layer.residuals[1:]})
    assert twice.device_bytes("bfloat16") - less.device_bytes("bfloat16") == size


def test_a_residual_that_is_missing_or_altered_is_named(mixed: Mixed) -> None:
    residual = mixed.manifest.layers[1].residuals[1]
    path = f"blobs/{residual.digest}.safetensors"
    data = mixed.registry.storage.read(path) or b""
    mixed.registry.storage.write(path, data[:-1] + bytes([data[-1] ^ 1]))
    (finding,) = verify(mixed.registry, mixed.manifest.id)
    assert residual.digest in finding
    mixed.registry.storage.write(path, data[:-1])
    with pytest.raises(Damaged, match=residual.digest):
        mixed.registry.publish(mixed.manifest)
    mixed.registry.storage.write(path, data)
    assert mixed.registry.publish(mixed.manifest) == mixed.manifest.id


PART = {"digest": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(
    ("field", "label", "message"),
    [
        ("slots", "rank-4", "slot 0 cannot be rank-4"),
        ("residuals", "dense", "residual 0 cannot be dense"),
        ("slots", "packed-9-32", "bits are 1 to 8"),
        ("residuals", "sparse", "'sparse' is none of"),
    ],
)
def test_formats_have_their_place(field: str, label: str, message: str) -> None:
    content: dict[str, Any] = {"module": "m", "parameters": {"w": (2, 2)}, "slots": []}
    with pytest.raises(ValidationError, match=message):
        Layer.model_validate({**content, field: [{**PART, "format": label}]})


def test_a_parameter_that_is_neither_matrix_nor_vector_is_refused() -> None:
    with pytest.raises(ValidationError, match="neither matrix nor vector"):
        Layer(module="m", parameters={"w": (2, 3, 4)}, slots=())


@pytest.mark.parametrize(
    ("residual_map", "message"),
    [
        ([[[], [0], [0, 2], []]] * 3, "model 'm', layer 0: residual 2 is outside the pool of 2"),
        ([[[], [0], []]] * 3, "maps residuals of experts that it does not have"),
        ([[[], [0], [], []]] * 2, "maps residuals of experts that it does not have"),
    ],
)
def test_residuals_of_a_map_are_there(mixed: Mixed, residual_map: object, message: str) -> None:
    content = json.loads(mixed.manifest.to_bytes())
    content["models"]["m"]["residual_map"] = residual_map
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate(content)


def test_a_manifest_without_shapes_is_none() -> None:
    content = {"module": "m", "slots": []}
    facts = {"family": "f", "architecture": "X", "dtype": "float32", "layers": [content]}
    size = dict.fromkeys(("before", "after", "one_model"), 0)
    bytes_of = {f"expert_bytes_{name}": value for name, value in size.items()}
    with pytest.raises(ValidationError, match="m: no shapes of its parameters"):
        Manifest.model_validate(
            {**facts, **bytes_of, "models": {}, "quality": {}, "provenance": {}}
        )


def test_a_residual_may_be_for_one_matrix_alone(mixed: Mixed) -> None:
    registry, layer = mixed.registry, mixed.manifest.layers[0]
    only = layer.shape.only(("down_proj",))
    tensors = random_part(only, FACTORS, torch.bfloat16, residual=True)
    blob = registry.write_blob(encode_tensors(tensors))
    part = Part(digest=blob.digest, bytes=blob.bytes, format=str(FACTORS), matrices=("down_proj",))
    assert blob.bytes == FACTORS.file_bytes(only, torch.bfloat16, residual=True)
    alone = layer.model_copy(update={"residuals": (part,), "slots": layer.slots[:1]})
    of_slot = DENSE.num_bytes(layer.shape, torch.bfloat16, residual=False)
    of_part = FACTORS.num_bytes(only, torch.bfloat16, residual=True)
    assert alone.device_bytes("bfloat16") == of_slot + of_part
    slot = layer.slots[0]
    plain = read_expert(registry, [slot], layer.shape)
    found = read_expert(registry, [slot, part], layer.shape)
    added = FACTORS.decode(tensors, "down_proj", layer.shape)
    for name, tensor in found.items():
        if not name.startswith("down_proj"):
            assert torch.equal(tensor, plain[name]), name
    down = plain["down_proj"] + (added.T if layer.transposed else added)
    assert torch.equal(found["down_proj"], down)
    whole = part.model_copy(update={"matrices": ()})
    with pytest.raises(Damaged, match=f"part {part.digest} holds"):
        read_expert(registry, [slot, whole], layer.shape)


@pytest.mark.parametrize(
    ("field", "part", "message"),
    [
        ("slots", {"matrices": ["x"]}, "slot 0 is for x, which is no matrix"),
        ("slots", {"matrices": ["w"], "others": [1]}, "slot 0: part 1 is outside the pool of 1"),
        ("residuals", {"format": "rank-2", "others": [0]}, "part 0 is outside the pool of 0"),
        ("residuals", {"format": "rank-2", "matrices": ["x"]}, "is for x, which is no matrix"),
        ("residuals", {"format": "rank-2", "on": "0" * 64}, "names a slot that it stands on"),
        ("residuals", {"format": "sparse-8"}, "names no slot that it stands on"),
        (
            "residuals",
            {"format": "sparse-8", "on": "0" * 64},
            "stands on 0+, which is no dense slot",
        ),
        ("slots", {"format": "sparse-8", "on": "0" * 64}, "slot 0 cannot be sparse-8"),
    ],
)
def test_what_a_part_is_for_must_be_there(field: str, part: dict[str, Any], message: str) -> None:
    content: dict[str, Any] = {"module": "m", "parameters": {"w": (2, 2)}, "slots": []}
    with pytest.raises(ValidationError, match=message):
        Layer.model_validate({**content, field: [{**PART, **part}]})


def test_a_release_of_schema_2_is_read_and_keeps_its_id(mixed: Mixed) -> None:
    content = json.loads(mixed.manifest.to_bytes())
    content["schema_version"] = 2
    for layer in content["layers"]:
        for part in (*layer["slots"], *layer["residuals"]):
            del part["matrices"], part["on"]
    for blob in content["models"]["m"]["backbone"]:
        del blob["tensors"]
    data = canonical_json(content)
    release = release_id(data)
    mixed.registry.storage.write(f"releases/{release}/manifest.json", data)
    reader = ReleaseReader(mixed.registry, release)
    assert reader.manifest.id == release
    for index, expected in enumerate(_expected(mixed, 0)):
        found = reader.expert("m", 0, index)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """A registry with a release of schema 1, as it was written before there were parts."""
    root = tmp_path_factory.mktemp("old")
    checkpoint = write_checkpoint(root / "m", "gpt_oss")
    published = manifest_of(run(root / "r", {"m": checkpoint, "gone": checkpoint}))
    content = json.loads(published.to_bytes())
    content["schema_version"] = 1
    for layer in content["layers"]:
        for field in ("parameters", "transposed", "residuals"):
            del layer[field]
        for slot in layer["slots"]:
            for field in ("format", "matrices", "on"):
                del slot[field]
    for name in ("m", "gone"):
        del content["models"][name]["residual_map"]
        for blob in content["models"][name]["backbone"]:
            del blob["tensors"]
        for field in ("predicted_kl", "accuracy_original", "accuracy_release"):
            del content["quality"][name][field]
    data = canonical_json(content)
    release = release_id(data)
    Registry(str(root / "r"), "fam").storage.write(f"releases/{release}/manifest.json", data)
    return root / "r", release, checkpoint


def test_a_release_of_schema_1_is_read_and_run(old: tuple[Path, str, Path]) -> None:
    root, release, _ = old
    registry = Registry(str(root), "fam")
    reader = ReleaseReader(registry, release)
    assert reader.manifest.expert_device_bytes is None
    slot = reader.read_slot(2, 3)
    for name, tensor in reader.expert("m", 2, 3).items():
        assert torch.equal(tensor, slot[name])
    assert verify(registry, release) == []


def test_a_release_of_schema_1_is_extended_by_a_model(old: tuple[Path, str, Path]) -> None:
    root, release, checkpoint = old
    manifest = manifest_of(run(root, {"again": checkpoint}, extend=release))
    assert manifest.schema_version == 3
    assert manifest.layers[0].transposed
    assert manifest.models["m"].expert_map == manifest.models["again"].expert_map
    with pytest.raises(Refused, match="schema_version 1"):
        run(root, {}, extend=release, remove=("gone",))
