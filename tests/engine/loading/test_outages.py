"""A model whose backbone cannot be loaded is refused at once, until its files are right again."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from serve_app.engine.engine import Engine
from serve_app.engine.loading.loader import load_failure
from serve_app.engine.loading.outages import LONGEST_PAUSE_S, Outages
from serve_app.engine.request import Request
from serve_app.errors import BadRelease, LoadFailed, Unavailable
from tests.engine.running import (
    GREEDY,
    SMALL,
    answer,
    assert_golden,
    engine_of,
    greedy_requests,
    prompts,
    stage,
    until_all_can_be_had,
)
from tests.engine.running import finish as finished
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

MODELS = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2, 3)}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_and_files_are_looked_at_once_in_each() -> None:
    clock = Clock()
    outages = Outages(clock)
    pauses = []
    for _ in range(9):
        outages.failed("b", "gone")
        assert outages.take_due() == []
        pauses.append(outages.wait_s("b"))
        clock.now += pauses[-1]
        assert outages.take_due() == ["b"]
        assert outages.take_due() == []
    assert pauses[:3] == [1.0, 2.0, 4.0]
    assert pauses[-1] == LONGEST_PAUSE_S
    found = outages.of("b")
    assert found is not None
    assert (found.since, found.attempts) == (0.0, 9)
    outages.keep(["c"])
    assert outages.of("b") is None


class Unreliable(MemorySource):
    """A registry that may go away. slow_s: how long a read takes before it fails."""

    is_away = False
    slow_s = 0.0

    def read_backbone(self, model: str) -> Any:
        if self.is_away and model == "m3":
            self.num_backbone_reads += 1
            time.sleep(self.slow_s)
            raise OSError("the registry is away")
        return super().read_backbone(model)


def opened(source: MemorySource, clock: Clock) -> Engine:
    """An engine that must read a backbone again whenever it is needed."""
    copy = sum(t.nbytes for t in source._backbones["m1"].values())
    engine = engine_of(source, num_places=1, host_memory=copy, clock=clock)
    answer(engine, greedy_requests(["m1"], [4], max_tokens=1))
    answer(engine, greedy_requests(["m2"], [4], max_tokens=1))
    return engine


@pytest.mark.parametrize("slow_s", [0.0, 0.2])
def test_after_a_failure_requests_are_refused_at_once_until_the_files_can_be_read(
    slow_s: float,
) -> None:
    source, clock = Unreliable("r1", MODELS), Clock()
    engine = opened(source, clock)
    source.is_away, source.slow_s = True, slow_s
    waiting = greedy_requests(["m3"], [5, 6], max_tokens=4)
    lost = answer(engine, waiting)
    assert all(isinstance(lost[request.id].error, Unavailable) for request in waiting)
    reads = source.num_backbone_reads

    with pytest.raises(Unavailable, match="the registry is away") as refused:
        engine.submit(Request("late", "r1", "m3", prompts([5])[0], 3, GREEDY))
    assert refused.value.retry_after_s == 1.0
    assert source.num_backbone_reads == reads, "nothing was read for it"
    outage = engine.stats().unavailable["r1", "m3"]
    assert (outage.attempts, outage.since) == (1, 0.0)
    others = greedy_requests(["m1", "m2"], [5, 7], max_tokens=4)
    assert_golden(MODELS, others, answer(engine, others))

    clock.now = 1.0
    finished(engine, {}, until=lambda: engine.stats().unavailable["r1", "m3"].attempts == 2)
    assert source.num_backbone_reads > reads, "looked at again, though nobody asked"
    with pytest.raises(Unavailable) as refused:
        engine.submit(Request("late", "r1", "m3", prompts([5])[0], 3, GREEDY))
    assert refused.value.retry_after_s == 2.0

    source.is_away = False
    clock.now = 3.0
    finished(engine, {}, until=lambda: not engine.stats().unavailable)
    again = greedy_requests(["m3"], [5], max_tokens=4)
    assert_golden(MODELS, again, answer(engine, again))
    engine.close()


def places_and_copies(num_copies: int) -> dict[str, Any]:
    copy = sum(t.nbytes for t in MemorySource("r1", MODELS)._backbones["m1"].values())
    return {"num_places": 1, "host_memory": num_copies * copy}


@pytest.mark.parametrize("settings", [{}, places_and_copies(3), places_and_copies(1)])
def test_a_release_may_lack_a_model_until_its_files_are_right(settings: dict[str, Any]) -> None:
    source, clock = Unreliable("r1", MODELS), Clock()
    source.is_away = True
    engine = Engine.open(source, replace(SMALL, **settings), clock=clock)
    stage(engine, source, may_lack=True)
    with pytest.raises(Unavailable, match="the registry is away") as refused:
        engine.submit(Request("early", "r1", "m3", prompts([5])[0], 3, GREEDY))
    assert refused.value.retry_after_s == 1.0
    assert list(engine.stats().unavailable) == [("r1", "m3")]
    others = greedy_requests(["m1", "m2"], [5, 7], max_tokens=4)
    assert_golden(MODELS, others, answer(engine, others))
    engine.check()
    assert engine.stats().broken is None

    source.is_away = False
    clock.now = 1.0
    until_all_can_be_had(engine)
    again = greedy_requests(MODELS, [5], max_tokens=4)
    assert_golden(MODELS, again, answer(engine, again))
    engine.close()


@pytest.mark.parametrize("settings", [{}, places_and_copies(3), places_and_copies(1)])
def test_it_may_not_if_it_comes_beside_another_and_never_lacks_slots(
    settings: dict[str, Any],
) -> None:
    others = {"m4": tiny_model("mixtral", 4)}
    engine = engine_of(MemorySource("r1", others), **settings)
    source = Unreliable("r2", MODELS)
    source.is_away = True
    with pytest.raises(LoadFailed, match="'m3': the registry is away"):
        stage(engine, source)
    source.is_away = False
    source._slots[1][2] = {"gate_up_proj": torch.zeros(3)}
    with pytest.raises(LoadFailed, match="layer 1, slot 2"):
        stage(engine, source, may_lack=True)
    asked = greedy_requests(others, [5], max_tokens=4)
    assert_golden(others, asked, answer(engine, asked))
    engine.close()


def test_what_is_as_published_and_does_not_fit_is_refused_with_its_release() -> None:
    source = MemorySource("r1", MODELS)
    del source._backbones["m3"]["model.norm.weight"]
    engine = Engine.open(source, SMALL)
    with pytest.raises(BadRelease, match="model 'm3': 1 tensors are missing"):
        stage(engine, source, may_lack=True)
    engine.close()


def test_a_failure_without_words_is_told_by_its_kind() -> None:
    assert str(load_failure("release 'r1'", TimeoutError())) == "release 'r1': TimeoutError"
