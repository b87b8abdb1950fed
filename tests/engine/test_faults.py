"""What is bad refuses itself: a release, a step, a turn of the loop. All else goes on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.engine import Engine
from serve_app.engine.loading.room import Room
from serve_app.engine.loop import EngineLoop
from serve_app.engine.memory import plan_memory
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Request
from serve_app.errors import DoesNotFit, EngineError, EngineStopped, LoadFailed, Unsupported
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
from tests.engine.test_loop import WAIT_S, Asked
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

MODELS = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2)}


def changed(**config: Any) -> MemorySource:
    """A release of another model, whose config says something else."""
    source = MemorySource("r2", {"m3": tiny_model("mixtral", 3)})
    source.models["m3"].config.update(config)
    return source


def assert_serves(engine: Engine) -> None:
    """The first release goes on as if nothing had been."""
    requests = greedy_requests(MODELS, [5, 9], max_tokens=6)
    assert_golden(MODELS, requests, answer(engine, requests))
    engine._scheduler.check()
    engine._supply.check()


ROPE = {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1e4}}


def test_a_config_that_cannot_be_built_refuses_its_release_by_name() -> None:
    engine = engine_of(MemorySource("r1", MODELS))
    with pytest.raises(Unsupported, match=r"release 'r2', model 'm3': .*rotary.*nonsense"):
        stage(engine, changed(**ROPE))
    assert_serves(engine)
    stage(engine, changed())  # of the same name: nothing of the bad one is left
    engine.close()


def test_a_first_release_that_cannot_be_built_is_refused_too() -> None:
    with pytest.raises(Unsupported, match="nonsense"):
        engine_of(changed(**ROPE))


@pytest.mark.parametrize("limit", [None, 1 << 30])
def test_a_huge_vocabulary_is_refused_with_numbers_before_anything_is_allocated(
    limit: int | None,
) -> None:
    huge = changed(vocab_size=10**9)
    with pytest.raises(DoesNotFit, match=r"needs .*[0-9,]{12,} bytes: pool [0-9,]+") as refused:
        plan_memory(huge, replace(ON_CPU, device_memory=limit))
    assert refused.value.needed > 2 * 10**9 * 4 * 16 > refused.value.available
    engine = engine_of(MemorySource("r1", MODELS), kv_tokens=64, device_memory=limit)
    assert not engine.fits_beside(huge)
    with pytest.raises(DoesNotFit, match=r"even alone; [0-9,]+ are spare"):
        engine.require_room_alone(huge)
    with pytest.raises(DoesNotFit, match=r"beside what is loaded; [0-9,]+ are spare"):
        stage(engine, huge)
    assert_serves(engine)
    engine.close()


def test_a_model_whose_tensors_have_another_vocabulary_than_its_config_says_is_refused() -> None:
    engine = engine_of(MemorySource("r1", MODELS))
    with pytest.raises(LoadFailed, match=r"'m3': .* has 320 rows; its config says .* has 330"):
        stage(engine, changed(vocab_size=330))
    assert_serves(engine)
    engine.close()


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("it broke")


def test_a_release_for_which_no_room_can_be_made_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(MemorySource("r1", MODELS))
    with monkeypatch.context() as patch:
        patch.setattr(Room, "make", broken)
        with pytest.raises(LoadFailed, match="release 'r2': it broke"):
            stage(engine, changed())
    assert_serves(engine)
    stage(engine, changed())
    engine.close()


def test_a_release_that_cannot_be_registered_is_refused_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(MemorySource("r1", MODELS))
    slots = engine.stats().unique_experts
    register = PackedModel.register_row
    third = {f"m{seed}": tiny_model("mixtral", seed) for seed in (3, 4)}
    calls: list[int] = []

    def second_breaks(self: PackedModel, row: int, made: Any) -> None:
        calls.append(row)
        if len(calls) == 2:
            broken()
        register(self, row, made)

    with monkeypatch.context() as patch:
        patch.setattr(PackedModel, "register_row", second_breaks)
        with pytest.raises(LoadFailed, match="release 'r2': it broke"):
            stage(engine, MemorySource("r2", third))
    assert engine.stats().unique_experts == slots
    assert_serves(engine)
    stage(engine, MemorySource("r2", third))
    requests = greedy_requests(third, [5], max_tokens=4, release="r2")
    assert_golden(third, requests, answer(engine, requests))
    engine.close()


def test_a_model_that_gives_no_numbers_changes_no_other_answer() -> None:
    engine = engine_of(MemorySource("r1", MODELS), kv_tokens=128)
    bad = tiny_model("mixtral", 3)
    with torch.no_grad():
        bad.model.layers[1].input_layernorm.weight[0] = torch.nan
    stage(engine, MemorySource("r2", {"m3": bad}))
    good = greedy_requests(MODELS, [5, 9], max_tokens=12)
    others = greedy_requests(["m3"], [7, 30, 12], max_tokens=12, release="r2")
    for _ in range(2):  # the second time with blocks that held what the bad one computed
        answers = answer(engine, [*others, *good])
        assert_golden(MODELS, good, answers)
    engine.close()


@pytest.mark.parametrize("plan_ahead", [False, True])
def test_a_request_that_breaks_every_step_it_is_in_ends_alone(
    monkeypatch: pytest.MonkeyPatch, plan_ahead: bool
) -> None:
    engine = engine_of(MemorySource("r1", MODELS), plan_ahead=plan_ahead)
    poison, works = 7, PackedModel.forward

    def forward(self: PackedModel, view: Any) -> torch.Tensor:
        return broken() if bool((view.ids == poison).any()) else works(self, view)

    monkeypatch.setattr(PackedModel, "forward", forward)
    good = [r for r in greedy_requests(MODELS, [5, 9], max_tokens=4) if poison not in r.prompt]
    bad = Request("bad", "r1", "m1", (5, poison, 6), 4, GREEDY)
    answers = answer(engine, [good[0], bad, *good[1:]])
    assert "it broke" in str(answers["bad"].error)
    assert_golden(MODELS, good, answers)
    engine._scheduler.check()
    engine.close()


def loop_of(opened: list[Engine]) -> EngineLoop:
    def make(wake: Callable[[], None]) -> Engine:
        source = MemorySource("r1", MODELS)
        opened.append(Engine.open(source, SMALL, on_loaded=wake))
        return opened[0]

    loop = EngineLoop(make)
    loop.stage(MemorySource("r1", MODELS)).result(WAIT_S)
    return loop


def test_a_turn_that_breaks_ends_the_running_requests_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines: list[Engine] = []
    loop = loop_of(engines)
    asked = Asked()
    loop.submit(Request("a", "r1", "m1", prompts([5])[0], 200, GREEDY), asked)
    assert asked.first.wait(WAIT_S)
    with monkeypatch.context() as patch:
        done = broken_once(patch, engines[0])
        asked.ended.result(WAIT_S)
    assert done == ["broken"]
    assert isinstance(asked.answer.error, EngineError)
    assert "it broke" in str(asked.answer.error)
    requests = greedy_requests(MODELS, [6], max_tokens=5)
    others = {request.id: Asked() for request in requests}
    for request in requests:
        loop.submit(request, others[request.id])
    for other in others.values():
        other.ended.result(WAIT_S)
    assert_golden(MODELS, requests, {name: other.answer for name, other in others.items()})
    loop.close()


def broken_once(patch: pytest.MonkeyPatch, engine: Engine) -> list[str]:
    """The next plan is made, and then something breaks."""
    schedule = engine._scheduler.schedule
    done: list[str] = []

    def breaks(now: float) -> Any:
        plan = schedule(now)
        if not done:
            done.append("broken")
            broken()
        return plan

    patch.setattr(engine._scheduler, "schedule", breaks)
    return done


def test_an_engine_that_breaks_without_requests_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[Engine] = []
    loop = loop_of(engines)
    died: list[Any] = []
    monkeypatch.setattr("threading.excepthook", died.append)
    asked = Asked()
    loop.submit(Request("a", "r1", "m1", prompts([5])[0], 200, GREEDY), asked)
    assert asked.first.wait(WAIT_S)
    monkeypatch.setattr(engines[0]._scheduler, "schedule", broken)
    asked.ended.result(WAIT_S)
    assert isinstance(asked.answer.error, EngineStopped)
    assert "it broke" in str(asked.answer.error)
    loop.close()
    assert len(died) == 1


def test_an_engine_whose_counts_are_wrong_after_a_break_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines: list[Engine] = []
    loop = loop_of(engines)
    died: list[Any] = []
    monkeypatch.setattr("threading.excepthook", died.append)
    engines[0]._blocks.take(1)  # nobody's
    asked = Asked()
    broken_once(monkeypatch, engines[0])
    loop.submit(Request("a", "r1", "m1", prompts([5])[0], 200, GREEDY), asked)
    asked.ended.result(WAIT_S)
    with pytest.raises(EngineStopped, match="owned"):
        loop.retire("r1").result(WAIT_S)
    loop.close()
    assert len(died) == 1
