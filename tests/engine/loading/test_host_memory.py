"""Copies of backbones on the host stay within `host_memory`, whatever is asked for."""

from dataclasses import replace
from typing import Any

import pytest

from serve_app.engine.loading import loader, outages
from serve_app.engine.memory import plan_memory
from serve_app.errors import ConfigError, LoadFailed
from tests.engine.running import (
    ON_CPU,
    SMALL,
    answer,
    assert_golden,
    engine_of,
    finish,
    greedy_requests,
    stage,
    until_all_can_be_had,
)
from tests.support.checkpoints import tiny_model
from tests.support.sources import FakeBlob, MemorySource


def models_of(*seeds: int) -> dict[str, Any]:
    return {f"m{seed}": tiny_model("mixtral", seed) for seed in seeds}


MODELS = models_of(1, 2, 3)


def one_copy() -> int:
    return plan_memory(MemorySource("r1", MODELS), ON_CPU).copy_bytes


@pytest.mark.parametrize("num_copies", [1, 2])
def test_answers_are_right_where_there_is_room_for_few_copies(num_copies: int) -> None:
    source, limit = MemorySource("r1", MODELS), num_copies * one_copy()
    engine = engine_of(source, num_places=1, host_memory=limit)
    assert engine.memory.host_bytes == limit
    assert source.num_backbone_reads == 3, "each was checked"
    requests = greedy_requests(MODELS, [5, 9, 7], max_tokens=4)
    for request in requests:
        engine.submit(request)
    seen: list[int] = []

    def done() -> bool:
        seen.append(engine.stats().host_bytes)
        return not engine.has_work

    assert_golden(MODELS, requests, finish(engine, {}, until=done))
    assert max(seen) == limit
    assert source.num_backbone_reads > 3, "what was not there was read again"
    engine.close()


def test_what_is_used_stays_and_is_not_read_again() -> None:
    source = MemorySource("r1", MODELS)
    engine = engine_of(source, num_places=1, host_memory=2 * one_copy())
    reads = []
    for model in ("m3", "m1", "m3", "m1", "m3", "m2"):
        requests = greedy_requests([model], [5], max_tokens=2)
        assert_golden(MODELS, requests, answer(engine, requests))
        reads.append(source.num_backbone_reads)
    assert reads[1:-1] == reads[1:2] * 4
    assert reads[-1] == reads[-2] + 1
    engine.close()


def test_where_all_have_places_nothing_is_held() -> None:
    engine = engine_of(MemorySource("r1", MODELS), host_memory=one_copy())
    assert engine.stats().host_bytes == engine.memory.host_bytes == 0
    engine.close()


def test_a_limit_that_holds_no_backbone_is_refused() -> None:
    source, least = MemorySource("r1", MODELS), one_copy()
    with pytest.raises(ConfigError, match=rf"host_memory is {least - 1:,} bytes; .* {least:,}"):
        engine_of(source, host_memory=least - 1)
    plan = plan_memory(source, replace(SMALL, num_places=1, host_memory=3 * least - 1))
    assert (plan.num_copies, plan.host_bytes) == (2, 2 * least)


def test_copies_go_with_their_release() -> None:
    engine = engine_of(MemorySource("r1", MODELS), num_places=1, host_memory=2 * one_copy())
    others = models_of(4, 5)
    gone: list[bool] = []
    engine.retire("r1", lambda: gone.append(True))
    finish(engine, {}, until=lambda: bool(gone))
    assert engine.stats().host_bytes == 0
    stage(engine, MemorySource("r2", others))
    assert engine.stats().host_bytes == 2 * one_copy()
    requests = greedy_requests(others, [5], max_tokens=3, release="r2")
    assert_golden(others, requests, answer(engine, requests))
    engine.close()


def test_a_backbone_that_is_not_held_is_checked_all_the_same() -> None:
    engine = engine_of(MemorySource("r1", MODELS), num_places=1, host_memory=one_copy())
    broken = MemorySource("r2", models_of(4, 5))
    broken.models["m5"].backbone[:] = [FakeBlob("another", 1)]
    del broken._backbones["m5"]["model.norm.weight"]
    with pytest.raises(LoadFailed, match="model 'm5': 1 tensors are missing"):
        stage(engine, broken)
    requests = greedy_requests(MODELS, [5], max_tokens=3)
    assert_golden(MODELS, requests, answer(engine, requests))
    engine.close()


def test_a_copy_that_cannot_be_made_leaves_its_room_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_of(MemorySource("r1", MODELS), num_places=1, host_memory=one_copy())
    held = engine.stats().host_bytes

    def fail(*_: Any) -> Any:
        raise OSError("it is gone")

    monkeypatch.setattr(outages, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(loader, "hold_backbone", fail)
    (lost,) = greedy_requests(["m3"], [5], max_tokens=3)
    error = answer(engine, [lost])[lost.id].error
    assert isinstance(error, LoadFailed)
    assert engine.stats().host_bytes == 0
    monkeypatch.undo()
    until_all_can_be_had(engine)
    requests = greedy_requests(MODELS, [5], max_tokens=3)
    assert_golden(MODELS, requests, answer(engine, requests))
    assert engine.stats().host_bytes == held
    engine.close()
