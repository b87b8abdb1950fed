"""Experts that are a dense slot with new values in some places: served as the models' own."""

import copy
from typing import Any

import pytest
import torch

from serve_app.engine.experts import runs
from serve_app.errors import LoadFailed
from tests.engine.pooling import assert_as_by_themselves, filled_layer
from tests.engine.running import answer, assert_golden, engine_of, greedy_requests, stage
from tests.support.checkpoints import tiny_model
from tests.support.mixes import Mix, MixedSource
from tests.support.sources import MemorySource, expert_paths

HELD = {
    "m1": Mix("dense"),
    "m2": Mix("dense", ("sparse-112",), "m1"),
    "m3": Mix("dense", ("sparse-640",), "m1"),
    "m4": Mix("dense", ("sparse-7",), "m1"),
}
"""m2 by gaps, m3 by a bitmap, m4 with next to nothing."""
PARTS = {"m2": 0.06, "m3": 0.5, "m4": 0.002}


def near_models(architecture: str) -> dict[str, Any]:
    """m1, and copies of it that differ in some of their experts' weights and in their biases."""
    found = {"m1": tiny_model(architecture, 1)}
    for seed, (name, part) in enumerate(PARTS.items()):
        found[name] = copy.deepcopy(found["m1"])
        generator = torch.Generator().manual_seed(seed)
        for path in expert_paths(found[name]):
            for parameter in found[name].get_submodule(path).parameters(recurse=False):
                is_new = torch.rand(parameter.shape, generator=generator) < part
                new = torch.randn(parameter.shape, generator=generator) * 0.05
                parameter.data = torch.where(is_new, new, parameter.data)
    return found


def sparse_source(models: dict[str, Any]) -> MixedSource:
    return MixedSource("r1", models, lambda model, layer, expert: HELD[model])


ARCHITECTURES = ["mixtral", "gpt_oss"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sparse_experts_answer_as_the_models_own(architecture: str) -> None:
    models = near_models(architecture)
    source = sparse_source(models)
    assert all(len(layer.slots) == 4 for layer in source.layers), "m1's are everybody's"
    engine = engine_of(source, kv_tokens=128)
    requests = greedy_requests(models, [5, 20], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    shelves = [s for layer in engine._packed.pool.values() for s in layer.shelves.values()]
    parts = sum(p.bytes for layer in source.layers for p in [*layer.slots, *layer.residuals])
    maps = sum(s.maps.nbytes + (0 if s.bases is None else s.bases.nbytes) for s in shelves)
    assert engine.stats().pool_bytes == engine.memory.pool_bytes == parts + maps
    engine.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("block", [runs.BLOCK_VALUES, 1])
def test_a_layer_gives_the_bits_that_dense_experts_give(
    architecture: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = near_models(architecture)
    source, dense = sparse_source(models), MemorySource("r1", models)
    path = source.layers[0].module
    experts = {name: model.get_submodule(path) for name, model in models.items()}
    rows = [0] * 5 + [1] * 9 + [2] * 4 + [3] * 6
    one, other = (filled_layer(found, 0, experts["m1"]) for found in (source, dense))
    expected = assert_as_by_themselves(other, experts, rows)
    monkeypatch.setattr(runs, "BLOCK_VALUES", block)
    found = assert_as_by_themselves(one, experts, rows)
    if block > 1:
        assert torch.equal(found, expected)
    else:  # A line at a time is another product.
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("rows", [[0] * 4 + [1] * 7 + [2] + [3] * 2, [1] * 5 + [3] * 4])
def test_a_layer_that_may_not_count_gives_the_same(architecture: str, rows: list[int]) -> None:
    models = near_models(architecture)
    source = sparse_source(models)
    path = source.layers[0].module
    experts = {name: model.get_submodule(path) for name, model in models.items()}
    layer = filled_layer(source, 0, experts["m1"])
    layer.counts = False
    assert_as_by_themselves(layer, experts, rows)


def test_a_part_that_stands_on_another_slot_is_refused() -> None:
    models = near_models("mixtral")
    engine = engine_of(MemorySource("r1", models))
    source = MixedSource("r2", models, lambda model, layer, expert: HELD[model])
    wrong = source.layers[1].residuals[0]
    object.__setattr__(wrong, "on", source.layers[1].slots[1].digest)
    with pytest.raises(LoadFailed, match="stands alone, and on slot"):
        stage(engine, source)
    engine.close()
