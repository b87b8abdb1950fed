"""Tensors that backbones of several models have in common are one row on the device."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.engine import Engine
from serve_app.engine.loading import loader, outages
from serve_app.engine.loading.backbones import load_backbone
from serve_app.engine.memory import plan_memory
from serve_app.engine.request import Request
from serve_app.errors import DoesNotFit, LoadFailed
from tests.engine.recorded import Recorder
from tests.engine.running import (
    GREEDY,
    ON_CPU,
    SMALL,
    Answer,
    answer,
    assert_golden,
    engine_of,
    finish,
    greedy_requests,
    prompts,
    stage,
    until_all_can_be_had,
)
from tests.support.checkpoints import ARCHITECTURES, tiny_model
from tests.support.sources import MemorySource, without_digests

WIDE = replace(ON_CPU, step_tokens=256, max_sequences=16)
"""All prompts in one step, so that the others decode."""


def altered(model: Any, seed: int, *parts: str) -> Any:
    """A copy whose tensors with one of these parts in their names are others."""
    found = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    changed = 0
    with torch.no_grad():
        for name, tensor in sorted(found.state_dict().items()):
            if any(part in name for part in parts):
                noise = torch.randn(tensor.shape, generator=generator) * 0.3
                tensor.add_(noise.to(tensor.dtype))
                changed += 1
    assert changed, f"no tensor is of {parts}"
    return found


ROUTERS = {
    "mixtral": ("mlp.gate.",),
    "gpt_oss": ("router.",),
    "deepseek_v3": ("mlp.gate.",),
    "qwen2_moe": ("mlp.gate.",),
}


def all_but_routers(architecture: str, count: int = 2) -> dict[str, Any]:
    """Models that have everything in common but their routers."""
    model = tiny_model(architecture, 1)
    found = {"m1": model}
    for seed in range(2, count + 1):
        found[f"m{seed}"] = altered(model, seed, *ROUTERS[architecture])
    return found


def two_families(*parts: str, count: int = 4) -> dict[str, Any]:
    """Models of two bases in turn, each with some parts of its own."""
    bases = [tiny_model("gpt_oss", seed) for seed in (1, 2)]
    return {
        f"m{number}": altered(bases[(number - 1) % 2], number, *parts)
        for number in range(1, count + 1)
    }


def router_bytes(models: dict[str, Any], architecture: str) -> int:
    return sum(
        tensor.nbytes
        for name, tensor in models["m1"].state_dict().items()
        if any(part in name for part in ROUTERS[architecture])
    )


@pytest.mark.parametrize("architecture", ROUTERS)
def test_models_that_share_all_but_their_router_take_one_backbone_and_two_routers(
    architecture: str,
) -> None:
    models = all_but_routers(architecture)
    source = MemorySource("r1", models)
    plan, routers = plan_memory(source, ON_CPU), router_bytes(models, architecture)
    assert (plan.num_places, plan.spare_places) == (3, 1)
    assert plan.next_bytes == plan.place_bytes, "if the next one has nothing in common with them"
    assert plan.backbones_bytes == plan.place_bytes + routers
    assert plan.shared_bytes == plan.place_bytes - routers
    engine = engine_of(source)
    stats = engine.stats()
    assert stats.backbones_bytes == plan.backbones_bytes
    assert stats.counters.backbone_load_bytes == plan.backbones_bytes, "what is there stays"
    requests = greedy_requests(models, [5, 17, 9], max_tokens=8)
    assert_golden(models, requests, answer(engine, requests))
    engine._supply.check()
    engine.close()


def test_where_the_manifest_tells_nothing_each_model_has_a_backbone_of_its_own() -> None:
    models = all_but_routers("mixtral")
    plan = plan_memory(without_digests(MemorySource("r1", models)), ON_CPU)
    assert plan.backbones_bytes == 2 * plan.place_bytes
    assert plan.shared_bytes == 0


def test_a_load_copies_the_router_alone_where_the_rest_is_there() -> None:
    models = all_but_routers("mixtral", 3)
    routers = router_bytes(models, "mixtral")
    engine = engine_of(MemorySource("r1", models), num_places=2)
    copied = []
    for name in ("m1", "m2", "m3", "m1", "m2", "m3"):
        before = engine.stats().counters
        requests = greedy_requests([name], [6], max_tokens=4)
        assert_golden(models, requests, answer(engine, requests))
        after = engine.stats().counters
        assert after.backbone_loads == before.backbone_loads + 1
        copied.append(after.backbone_load_bytes - before.backbone_load_bytes)
    assert copied == [engine.memory.place_bytes] + [routers] * 5
    engine._supply.check()
    engine.close()


def test_one_place_serves_models_by_their_routers() -> None:
    models = all_but_routers("mixtral")
    engine = engine_of(MemorySource("r1", models), num_places=1)
    requests = greedy_requests(models, [6, 9], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    counters = engine.stats().counters
    rest = (counters.backbone_loads - 1) * router_bytes(models, "mixtral")
    assert counters.backbone_load_bytes == engine.memory.place_bytes + rest
    engine._supply.check()
    engine.close()


def rows_in(engine: Engine) -> dict[int, int]:
    """How many stacks there are by their number of rows."""
    counts: dict[int, int] = {}
    for num in engine.packed.stacks.num_rows.values():
        counts[num] = counts.get(num, 0) + 1
    return counts


PARTS = {
    "routers": ("router.",),
    "norms": ("norm",),
    "biases": ("proj.bias",),
    "weights": ("q_proj.weight", "o_proj.weight"),
    "sinks": ("sinks",),
    "embeddings": ("embed_tokens",),
    "heads": ("lm_head",),
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("num_places", [4, 3])
def test_models_of_two_bases_answer_as_by_themselves_in_one_batch(
    parts: str, num_places: int
) -> None:
    """So that rows are neither one nor as many as places, and not in the order of places."""
    models = two_families(*PARTS[parts])
    engine = engine_of(MemorySource("r1", models), num_places=num_places, config=WIDE)
    assert set(rows_in(engine)) == {2, num_places}
    requests = greedy_requests(models, [5, 12], max_tokens=7)
    assert_golden(models, requests, answer(engine, requests))
    engine._supply.check()
    engine.close()


@pytest.mark.parametrize("parts", PARTS)
def test_one_capture_serves_models_of_two_bases_wherever_they_are(
    parts: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on CUDA: which token reads which row is data on the device, rewritten by each load."""
    recorder = Recorder()
    monkeypatch.setattr("serve_app.engine.engine.graph_backend", lambda *_: recorder)
    monkeypatch.setattr("serve_app.engine.model.replacing.makers", lambda _: ())
    models = two_families(*PARTS[parts], count=5)
    source = MemorySource("r1", models)
    engine = engine_of(source, num_places=3, config=WIDE, kv_tokens=1024)
    assert set(rows_in(engine)) == {2, 3}
    for number, names in enumerate((["m1", "m2"], ["m4", "m5"], ["m3", "m2"], ["m5", "m1"])):
        for turn in range(2):
            requests = [
                Request(f"{number}-{turn}-{at}", "r1", name, prompts([6 + at])[0], 5, GREEDY)
                for at, name in enumerate(names)
            ]
            assert_golden(models, requests, answer(engine, requests))
    assert engine.stats().backbone_evictions > 0
    assert 0 < len(recorder.recorded) <= 4
    assert recorder.num_replays > 10
    assert not caplog.records, "every capture gave what the step gave"
    engine._supply.check()
    engine.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_answers_with_embeddings_norms_and_heads_in_common(
    architecture: str,
) -> None:
    """Two bases, each with models that differ in some matrices of attention alone."""
    bases = [tiny_model(architecture, seed) for seed in (1, 2)]
    name = next(
        name.rpartition(".")[0]
        for name, tensor in bases[0].state_dict().items()
        if "layers.1." in name and "attn" in name and tensor.dim() == 2
    )
    models = {
        f"m{number}": altered(bases[number % 2], number, f"{name}.") for number in range(1, 5)
    }
    engine = engine_of(MemorySource("r1", models), num_places=3)
    plan = engine.memory
    assert 2 * plan.place_bytes <= plan.backbones_bytes < 2.5 * plan.place_bytes
    requests = greedy_requests(models, [5, 17], max_tokens=8)
    assert_golden(models, requests, answer(engine, requests))
    assert engine.stats().backbone_evictions > 0
    engine._supply.check()
    engine.close()


def test_bfloat16_rows_in_common_give_what_rows_of_their_own_give() -> None:
    """To the bit: what is shared is no other number."""
    models = {name: m.to(torch.bfloat16) for name, m in two_families("router.").items()}
    found = []
    for forget in (False, True):
        source = MemorySource("r1", models, dtype="bfloat16")
        engine = engine_of(without_digests(source) if forget else source, config=WIDE)
        requests = greedy_requests(models, [5, 12], max_tokens=7)
        answers = answer(engine, requests)
        found.append({r.id: (answers[r.id].tokens, answers[r.id].logprobs) for r in requests})
        engine._supply.check()
    engine.close()
    assert found[0] == found[1]


def test_a_release_that_shares_other_tensors_is_taken_in_beside_running_work() -> None:
    """Rows grow from one to one for each place, and what is running goes on."""
    old, new = all_but_routers("mixtral"), two_of_another_base()
    engine = engine_of(MemorySource("r1", old), num_places=2)
    assert set(rows_in(engine)) == {1, 2}
    early = greedy_requests(old, [6], max_tokens=30)
    for request in early:
        engine.submit(request)
    answers: dict[str, Answer] = {}
    finish(engine, answers, until=lambda: len(answers) == 2)
    outcomes: list[object] = []
    engine.stage(MemorySource("r2", new), outcomes.append)
    finish(engine, answers, until=lambda: bool(outcomes))
    assert outcomes == [None]
    assert not answers["m1-0"].finish, "it runs on"
    assert set(rows_in(engine)) == {2}
    late = [Request(f"late {name}", "r2", name, prompts([7])[0], 8, GREEDY) for name in new]
    for request in late:
        engine.submit(request)
    finish(engine, answers)
    assert_golden(old, early, answers)
    assert_golden(new, late, answers)
    again = greedy_requests(old, [9], max_tokens=5)
    assert_golden(old, again, answer(engine, again))
    engine._supply.check()
    engine.close()


def two_of_another_base() -> dict[str, Any]:
    base = tiny_model("mixtral", 7)
    return {"m1": base, "m2": altered(base, 8, "mlp.gate.")}


def test_rows_grow_to_fewer_than_places_too() -> None:
    old = all_but_routers("mixtral", 3)
    engine = engine_of(MemorySource("r1", old), num_places=3)
    stage(engine, MemorySource("r2", two_of_another_base()))
    assert set(rows_in(engine)) == {2, 3}
    for models, release in ((old, "r1"), (two_of_another_base(), "r2"), (old, "r1")):
        requests = greedy_requests(models, [6, 8], max_tokens=6, release=release)
        assert_golden(models, requests, answer(engine, requests))
    engine._supply.check()
    engine.close()


def test_a_release_that_would_need_more_rows_than_there_is_room_for_waits_for_the_old_one() -> None:
    old, new = all_but_routers("mixtral"), two_of_another_base()
    plan = plan_memory(MemorySource("r1", old), replace(SMALL, kv_tokens=64))
    source = MemorySource("r2", new)
    engine = engine_of(MemorySource("r1", old), kv_tokens=64, device_memory=plan.total_bytes)
    assert engine.memory.num_places == 2
    assert not engine.fits_beside(source)
    with pytest.raises(DoesNotFit, match="bytes beside what is loaded"):
        stage(engine, source)
    requests = greedy_requests(old, [5], max_tokens=4)
    assert_golden(old, requests, answer(engine, requests))
    engine.require_room_alone(source)
    gone: list[bool] = []
    engine.retire("r1", lambda: gone.append(True))
    finish(engine, {}, until=lambda: bool(gone))
    assert engine.fits_beside(source)
    stage(engine, source)
    late = greedy_requests(new, [5, 8], max_tokens=6, release="r2")
    assert_golden(new, late, answer(engine, late))
    assert engine.stats().backbones_bytes == plan.backbones_bytes
    engine._supply.check()
    engine.close()


def test_a_release_with_nothing_in_common_may_be_too_large_even_alone() -> None:
    old = all_but_routers("mixtral")
    plan = plan_memory(MemorySource("r1", old), replace(SMALL, kv_tokens=64))
    engine = engine_of(MemorySource("r1", old), kv_tokens=64, device_memory=plan.total_bytes)
    others = {name: tiny_model("mixtral", seed) for name, seed in (("m1", 4), ("m2", 5))}
    with pytest.raises(DoesNotFit, match="more than is allocated, even alone"):
        engine.require_room_alone(MemorySource("r2", others))
    engine._supply.check()
    engine.close()


def test_places_are_planned_by_what_one_more_backbone_adds() -> None:
    models = all_but_routers("mixtral", 4)
    source = MemorySource("r1", models)
    whole = plan_memory(source, replace(SMALL, kv_tokens=64))
    assert whole.num_places == 5
    roomy = whole.total_bytes + whole.next_bytes
    for device_memory, places in ((roomy, 5), (roomy - 1, 4)):
        plan = plan_memory(source, replace(SMALL, kv_tokens=64, device_memory=device_memory))
        assert (plan.num_places, plan.backbones_bytes) == (places, whole.backbones_bytes)
    tight = plan_memory(source, replace(SMALL, kv_tokens=64, device_memory=whole.total_bytes))
    assert tight.num_places == 4
    routers = router_bytes(models, "mixtral")
    less = whole.total_bytes - routers
    assert plan_memory(source, replace(SMALL, kv_tokens=64, device_memory=less)).num_places == 3


@pytest.mark.parametrize("lacking", [0, 1])
def test_there_is_a_place_to_spare_if_the_machine_has_its_bytes_free(
    lacking: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = MemorySource("r1", {name: tiny_model("mixtral", 1) for name in ("m1", "m2")})
    config = replace(SMALL, kv_tokens=64)
    whole = plan_memory(source, config)
    free = whole.total_bytes + whole.next_bytes - lacking
    monkeypatch.setattr("serve_app.engine.memory.free_bytes", lambda _: free)
    plan = plan_memory(source, config)
    assert (plan.num_backbones, plan.spare_places) == (1, 1 - lacking)
    assert plan.total_bytes == whole.total_bytes, "it takes nothing until a next release comes"


def test_a_next_release_that_changes_a_router_takes_one_row_and_captured_steps_stay_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each place has the row of its own number until the next release's place reads others'."""
    recorder = Recorder()
    monkeypatch.setattr("serve_app.engine.engine.graph_backend", lambda *_: recorder)
    monkeypatch.setattr("serve_app.engine.model.replacing.makers", lambda _: ())
    old = {"m1": tiny_model("mixtral", 1), "m2": tiny_model("mixtral", 2)}
    new = old | {"m2": altered(old["m2"], 3, "mlp.gate.")}
    engine = engine_of(MemorySource("r1", old), config=WIDE, kv_tokens=1024)
    stacks = engine.packed.stacks.stacks().values()
    assert set(rows_in(engine)) == {2}
    assert all(stack.rows.is_own for stack in stacks), "so nothing is sorted"
    before = engine.stats().backbones_bytes
    for number, (models, release) in enumerate([(old, "r1"), (new, "r2"), (old, "r1")]):
        if number == 1:
            stage(engine, MemorySource("r2", new))
            grown = engine.stats().backbones_bytes - before
            assert grown == router_bytes(old, "mixtral"), "and no bytes for what it has in common"
            assert not all(stack.rows.is_own for stack in stacks)
        for turn in range(2):
            requests = [
                Request(f"{number}-{turn}-{name}", release, name, prompts([6])[0], 5, GREEDY)
                for name in models
            ]
            assert_golden(models, requests, answer(engine, requests))
    assert engine.stats().backbone_evictions == 0
    assert recorder.num_replays > 5
    assert not caplog.records, "every capture gave what the step gave"
    engine._supply.check()
    engine.close()


def test_a_load_that_fails_leaves_rows_to_be_filled_by_the_next_that_needs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It breaks off in the middle, when another that has most in common with it waits behind it."""
    models = all_but_routers("mixtral", 3)
    engine = engine_of(MemorySource("r1", models), num_places=2)
    begun: list[str] = []

    def break_off(packed: Any, to: Any, tensors: Any, source: str, arrival: Any) -> int:
        begun.append(source)
        while not may_fail():
            time.sleep(0.001)

        def half() -> Any:
            for number, pair in enumerate(tensors):
                if number == 6:
                    raise OSError("it is gone")
                yield pair

        return load_backbone(packed, to, half(), source, arrival)

    def once(packed: Any, to: Any, tensors: Any, source: str, arrival: Any) -> int:
        fails = not begun
        load: Callable[..., int] = break_off if fails else load_backbone
        return load(packed, to, tensors, source, arrival)

    def may_fail() -> bool:
        return len(engine._scheduler.places.loading) == 2

    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(loader, "load_backbone", once)
    lost, kept = greedy_requests(["m1", "m2"], [5], max_tokens=5)
    answers = answer(engine, [lost, kept])
    assert isinstance(answers[lost.id].error, LoadFailed)
    assert_golden(models, [kept], answers)
    until_all_can_be_had(engine)
    requests = greedy_requests(models, [7], max_tokens=5)
    again = [Request(f"again-{r.id}", "r1", r.model, r.prompt, 5, GREEDY) for r in requests]
    assert_golden(models, again, answer(engine, again))
    engine._supply.check()
    engine.close()
