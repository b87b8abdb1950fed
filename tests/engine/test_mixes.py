"""Experts that are sums of parts answer as the dense experts that the parts add up to."""

import itertools
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch

from representation.formats import format_of
from serve_app.engine.engine import Engine
from serve_app.engine.experts.linear import part_linear
from serve_app.engine.memory import expert_memory, plan_memory
from serve_app.engine.request import Request
from serve_app.errors import DoesNotFit, LoadFailed
from tests.engine.running import (
    GREEDY,
    ON_CPU,
    SMALL,
    answer,
    assert_golden,
    engine_of,
    greedy_requests,
    prompts,
    stage,
)
from tests.support.checkpoints import tiny_model
from tests.support.mixes import MIXES, Mix, MixedSource, in_turn
from tests.support.sources import MemorySource, expert_shape

ARCHITECTURES = ["mixtral", "gpt_oss", "qwen2_moe"]


def family(architecture: str = "mixtral", seeds: Iterable[int] = (1, 2, 3)) -> dict[str, Any]:
    return {f"m{seed}": tiny_model(architecture, seed) for seed in seeds}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("mix", MIXES)
def test_every_mix_answers_as_its_dense_reference(mix: str, architecture: str) -> None:
    models = family(architecture)
    source = MixedSource("r1", models, in_turn(mix))
    engine = engine_of(source, kv_tokens=128)
    requests = greedy_requests(models, [5, 20], max_tokens=6)
    assert_golden(source.references(models), requests, answer(engine, requests))
    engine.close()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("mix", MIXES)
def test_in_bfloat16_every_mix_errs_no_more_than_its_dense_reference(mix: str, device: str) -> None:
    """Against the reference in float32. The typical error: see the test of unmerged models."""
    models = {name: model.to(torch.bfloat16) for name, model in family(seeds=(1, 2)).items()}
    source = MixedSource("r1", models, in_turn(mix), dtype="bfloat16")
    exact = source.references(models)
    rounded = {n: m.to(torch.bfloat16) for n, m in source.references(models).items()}
    engine = engine_of(source, config=ON_CPU, device=device)
    requests = [
        Request(f"{name}-{seed}", "r1", name, prompt, 0, GREEDY, prompt_logprobs=0)
        for seed in range(3)
        for name, prompt in zip(models, prompts([60, 60], seed=seed), strict=True)
    ]
    answers = answer(engine, requests)
    errors, own_errors = [], []
    for request in requests:
        found = answers[request.id].prompt_logprobs
        assert found is not None
        with torch.no_grad():
            ids = torch.tensor([request.prompt])
            wanted = torch.log_softmax(exact[request.model](ids).logits[0], dim=-1)
            own = torch.log_softmax(rounded[request.model](ids).logits[0].float(), dim=-1)
        for position, logprob in enumerate(found[1:]):
            assert logprob is not None
            truth = wanted[position, logprob.token].item()
            errors.append(abs(logprob.logprob - truth))
            own_errors.append(abs(own[position, logprob.token].item() - truth))
    assert statistics.median(errors) < 1.5 * statistics.median(own_errors)
    engine.close()


def shelves_of(engine: Engine) -> list[Any]:
    return [shelf for layer in engine._packed.pool.values() for shelf in layer.shelves.values()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("mix", MIXES)
def test_the_parts_take_the_bytes_of_their_tensors_and_no_more(mix: str, architecture: str) -> None:
    models = family(architecture)
    source = MixedSource("r1", models, in_turn(mix))
    engine = engine_of(source)
    expected = 0
    for layer in source.layers:
        shape = expert_shape(models["m1"].get_submodule(layer.module))
        for residual, parts in ((False, layer.slots), (True, layer.residuals)):
            for part in parts:
                fmt = format_of(part.format)
                own = shape.only(part.matrices)
                size = fmt.num_bytes(own, torch.float32, residual=residual)
                assert size == part.bytes, "the blob's own tensors"
                expected += size
    shelves = shelves_of(engine)
    slabs = [tensor for shelf in shelves for tensor in shelf.tensors.values()]
    assert sum(slab.untyped_storage().nbytes() for slab in slabs) == expected
    maps = sum(shelf.maps.untyped_storage().nbytes() for shelf in shelves)
    assert engine.stats().pool_bytes == expected + maps == engine.memory.pool_bytes
    maps_of_layers = zip(*(model.expert_map for model in source.models.values()), strict=True)
    slots = [{slot for row in rows for slot in row} for rows in maps_of_layers]
    assert engine.stats().unique_experts == sum(map(len, slots))
    engine.close()


def test_what_is_in_no_step_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    models = family(seeds=(1, 2))
    mixes = {"m1": Mix("dense"), "m2": Mix("packed-4-16", ("rank-2",))}
    engine = engine_of(MixedSource("r1", models, lambda model, *_: mixes[model]))
    computed: set[str] = set()

    def noted(multiplier: Any, pick: Any, *args: Any) -> Any:
        computed.add(str(pick.shelf.key.format))
        return part_linear(multiplier, pick, *args)

    monkeypatch.setattr("serve_app.engine.experts.pool.part_linear", noted)
    answer(engine, greedy_requests(["m1"], [9], max_tokens=3))
    assert computed == {"dense"}
    answer(engine, [Request("later", "r1", "m2", prompts([9])[0], 3, GREEDY)])
    assert computed == {"dense", "packed-4-16", "rank-2"}
    engine.close()


def test_a_release_in_other_formats_joins_the_one_that_is_running() -> None:
    models = family(seeds=(1, 2))
    engine = engine_of(MemorySource("r1", models))
    source = MixedSource("r2", models, in_turn("every expert in its own way"))
    stage(engine, source)
    old = greedy_requests(models, [9], max_tokens=5)
    new = [
        Request(f"new-{request.id}", "r2", request.model, request.prompt, 5, GREEDY)
        for request in old
    ]
    answers = answer(engine, [*old, *new])
    assert_golden(models, old, answers)
    assert_golden(source.references(models), new, answers)
    assert engine.stats().unique_experts > 2 * 3 * 4
    engine.close()


def test_shelves_that_nothing_needs_make_room_for_others() -> None:
    models = family(seeds=(1, 2))
    sources: list[MemorySource] = [MemorySource("r1", models)]
    sources += [
        MixedSource(f"r{number}", models, in_turn(mix))
        for number, mix in enumerate(["packed slots of their own", "a dense base and signs"], 2)
    ]
    need = plan_memory(sources[0], replace(SMALL, kv_tokens=64)).total_bytes
    engine = engine_of(sources[0], kv_tokens=64, device_memory=need)
    dense_bytes = engine.stats().pool_bytes
    for before, source in itertools.pairwise(sources):
        larger = MixedSource("r9", models, lambda *_: Mix("dense", ("packed-8-1",)))
        with pytest.raises(DoesNotFit, match="even alone"):
            engine.require_room_alone(larger)
        engine.require_room_alone(source)
        engine.retire(before.id, lambda: None)
        stage(engine, source)
        assert isinstance(source, MixedSource)
        requests = greedy_requests(models, [7], max_tokens=4, release=source.id)
        assert_golden(source.references(models), requests, answer(engine, requests))
        assert engine.stats().pool_bytes < dense_bytes
    assert {str(shelf.key.format) for shelf in shelves_of(engine)} == {"dense", "packed-1-32"}
    engine.retire("r3", lambda: None)
    stage(engine, sources[0])
    assert engine.stats().pool_bytes == dense_bytes
    engine.close()


def test_parts_that_the_engine_cannot_hold_are_refused_by_name() -> None:
    models = family(seeds=(1,))
    engine = engine_of(MemorySource("r1", models))
    twice = MixedSource("r2", models, lambda *_: Mix("dense", ("rank-2", "rank-2")))
    with pytest.raises(LoadFailed, match="'m1', expert 0: two parts are of one format"):
        stage(engine, twice)
    halved = MixedSource("r2", models, lambda *_: Mix("packed-4-8@in+packed-6-8@down_proj"))
    object.__setattr__(halved.layers[0].slots[1], "others", ())
    with pytest.raises(LoadFailed, match="'m1', expert 0: 0 slots have its down_proj"):
        stage(engine, halved)
    odd = MixedSource("r2", models, lambda *_: Mix("packed-4-8"))
    object.__setattr__(odd.layers[1].slots[0], "format", "packed-9-8")
    with pytest.raises(LoadFailed, match=r"r2.*layers.1.*slot .*: format 'packed-9-8'"):
        stage(engine, odd)
    object.__setattr__(odd.layers[1].slots[0], "format", "rank-2")
    with pytest.raises(LoadFailed, match="its format is rank-2; a slot's is one of dense, packed"):
        stage(engine, odd)
    turned = MixedSource("r2", models, lambda *_: Mix("packed-4-8"))
    object.__setattr__(turned.layers[0], "transposed", True)
    with pytest.raises(LoadFailed, match=r"matrices \(in, out\); the module's are \(out, in\)"):
        stage(engine, turned)
    broken = MixedSource("r2", models, lambda *_: Mix("dense", ("packed-4-8",)))
    broken._residuals[2][0]["down_proj.plane4"] = torch.zeros((32, 12))
    with pytest.raises(LoadFailed, match=r"'r2', layer 2, residual 0: holds .*plane4.*uint8"):
        stage(engine, broken)
    stage(engine, MemorySource("r2", models))
    engine.close()


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss"])
def test_expert_memory_is_what_a_release_may_take(architecture: str) -> None:
    models = family(architecture)
    source = MixedSource("r1", models, in_turn("every expert in its own way"))
    configs = [model.config.to_dict() for model in models.values()]
    formats = max(len({*layer.slots, *layer.residuals}) for layer in source.layers)
    parts = sum(part.bytes for layer in source.layers for part in [*layer.slots, *layer.residuals])
    plenty = 10**9
    others = plenty - expert_memory(
        configs, "float32", replace(ON_CPU, device_memory=plenty), num_maps=formats
    )
    plan = plan_memory(source, replace(ON_CPU, device_memory=others + parts))
    assert plan.total_bytes <= others + parts
    with pytest.raises(DoesNotFit, match="3 backbones of"):
        expert_memory(configs, "float32", replace(ON_CPU, device_memory=others), num_maps=formats)
