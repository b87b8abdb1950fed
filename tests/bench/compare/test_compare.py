"""Every arm answers the same jobs with the same tokens, and leaves nothing behind."""

import multiprocessing
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from serve_app.bench.arms.answering import ArmResult
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import (
    ARMS,
    ONE_MODEL,
    PRECISIONS,
    arm_spec,
    isolated,
    share,
)
from serve_app.bench.arms.process import Broke, serve
from serve_app.bench.arms.rationed import _Rationed
from serve_app.bench.arms.served import ProcessSpec
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.compare import compare as comparing
from serve_app.bench.compare.compare import Turns, compare, measure_arms, rate_between
from serve_app.bench.compare.compare_page import sections
from serve_app.bench.compare.compare_terminal import terminal
from serve_app.bench.compare.ratios import RATIOS_TO, ratios
from serve_app.bench.requests.open_loop import ClientLoad, drive
from serve_app.bench.requests.outcomes import Outcome, summary
from serve_app.bench.requests.workload import Asked, Lengths, TimedJob, Workload
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Trouble
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.request import Event, Failed
from serve_app.errors import ConfigError, EngineError
from tests.bench.tiny import tiny_config

MODELS = ("m0", "m1")
GROUND = Ground(
    RandomSpec(tiny_config(), len(MODELS), "float32"),
    MODELS,
    EngineConfig(device="cpu", dtype="float32", kv_tokens=512, step_tokens=64, max_sequences=4),
)
ASKED = [Asked(name, 128, 320) for name in MODELS]
LOAD = Workload(Lengths(4, 20), Lengths(3, 9), skew=0.5, seed=0)
JOBS = LOAD.jobs(LOAD.arrivals(rate=40.0, duration_s=0.4), ASKED).jobs
TO_ONE = [replace(job, model="m0") for job in JOBS]


CORES = (0, 1)


def tokens_of(outcomes: Sequence[Outcome]) -> list[tuple[int, ...]]:
    assert [outcome.error for outcome in outcomes if outcome.is_lost] == []
    return [outcome.tokens for outcome in outcomes]


def answers(name: str, jobs: Sequence[TimedJob]) -> list[tuple[int, ...]]:
    """What an arm of one process answers, run in this one."""
    (process,) = arm_spec(name, GROUND, CORES).processes
    arm = process.open()
    try:
        run = drive(arm, jobs, start=time.monotonic(), drain_s=60.0)
        assert arm.device_bytes > 0
    finally:
        arm.close()
    return tokens_of(run.outcomes)


@pytest.fixture(scope="module")
def pooled() -> dict[str, list[tuple[int, ...]]]:
    """What the pool answers: to the jobs, and with all of them asked of one model."""
    return {"all": answers("pool", JOBS), "one": answers("pool", TO_ONE)}


@pytest.mark.parametrize(
    "name", [name for name in ARMS if name not in ("pool", "isolated", *PRECISIONS)]
)
def test_an_arm_answers_as_the_pool_does(
    name: str, pooled: dict[str, list[tuple[int, ...]]]
) -> None:
    only = name in ONE_MODEL
    found = answers(name, TO_ONE if only else JOBS)
    assert [len(tokens) for tokens in found] == [job.max_tokens for job in JOBS]
    assert found == pooled["one" if only else "all"]


def test_processes_answer_as_the_pool_does_and_are_gone_afterwards(
    pooled: dict[str, list[tuple[int, ...]]],
) -> None:
    told: list[tuple[str, int, int]] = []
    (found,) = compare(
        ["isolated"], GROUND, JOBS, drain_s=60.0, on_progress=lambda *now: told.append(now)
    )
    assert tokens_of(found.outcomes) == pooled["all"]
    assert multiprocessing.active_children() == []
    assert told[0] == ("isolated", 0, len(JOBS))
    assert told[-1] == ("isolated", len(JOBS), len(JOBS))
    row = found.to_json()
    assert row["all"]["lost"] == 0
    assert row["device_bytes"] > 0
    assert row["client"]["lateness_s"]["p99"] >= 0


def test_a_process_that_cannot_open_its_arm_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is to stay as it is
    ours, theirs = multiprocessing.Pipe()
    ground = replace(GROUND, engine=replace(GROUND.engine, device_memory=1))
    serve(ProcessSpec("engine", ground), theirs)
    broke = ours.recv()
    assert isinstance(broke, Broke)
    assert broke.words.startswith("DoesNotFit: the release needs at least ")
    assert broke.words.endswith("; the device memory is 1 bytes")


@pytest.mark.parametrize(
    ("count", "cores", "expected"),
    [
        (2, (0, 1, 2, 3), [(0, 1), (2, 3)]),
        (2, (0, 1, 2), [(0,), (1,)]),
        (4, (5, 7), [(5, 7)] * 4),
    ],
)
def test_isolated_processes_have_equal_shares_of_the_cores(
    count: int, cores: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    assert [share(number, count, cores) for number in range(count)] == expected


def test_with_fewer_cores_than_processes_each_has_a_part_of_one() -> None:
    ground = replace(GROUND, models=("a", "b", "c", "d"))
    for cores, expected in (((5, 7), (1, 0.5)), ((0, 1, 2), (1, 0.75)), (range(9), (2, 1.0))):
        assert {(p.threads, p.core_share) for p in isolated(ground, tuple(cores))} == {expected}


EVENT = Failed("a", EngineError("gone"))


class Steps:
    """An engine whose steps use .2 s of the processor in .3 s, and clocks that it moves."""

    has_work = True

    def __init__(self) -> None:
        self.now, self.used = 0.0, 0.0

    def step(self) -> list[Event]:
        self.now, self.used = self.now + 0.3, self.used + 0.2
        return [EVENT]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("core_share", "expected"), [(0.5, 0.4), (0.25, 0.8), (0.9, 0.3)])
def test_a_step_takes_the_processor_time_that_its_share_gives_it(
    core_share: float, expected: float
) -> None:
    steps = Steps()
    engine = _Rationed(
        cast(Engine, steps),
        core_share,
        clock=lambda: steps.now,
        processor_s=lambda: steps.used,
        sleep=steps.sleep,
    )
    assert engine.step() == [EVENT]
    assert steps.now == pytest.approx(expected)
    assert engine.has_work, "all else is the engine's own"


def finished(seconds: float, error: str | None = None) -> Outcome:
    return Outcome(TimedJob(0.0, "m", (3,), 2, 0), 0.0, seconds, seconds, 2, error=error)


def test_what_an_arm_can_take_leaves_out_its_beginning_and_its_end() -> None:
    ends = [5.0, 6.0, *(7.0, 7.5, 8.0, 8.5), 9.0, 20.0]
    assert rate_between([finished(end) for end in ends], at_once=2) == pytest.approx(4 / 2.5)
    with pytest.raises(EngineError, match="1 of 3"):
        rate_between([finished(1), finished(2), finished(3, "gone")], at_once=1)


def test_ratios_are_to_single_isolated_and_peers_where_they_took_part() -> None:
    assert {"single", "isolated", *PRECISIONS} == set(RATIOS_TO)
    rows = [
        {"arm": "pool", "device_bytes": 100, **summary([finished(2.0)])},
        {"arm": "isolated", "device_bytes": 400, **summary([finished(8.0)])},
    ]
    found = ratios(rows)
    assert found.keys() == {"isolated"}
    assert found["isolated"]["pool"]["device_bytes"] == 0.25
    assert found["isolated"]["pool"]["turnaround_s_mean"] == 0.25
    assert found["isolated"]["pool"]["answer_tokens_per_s"] == 4.0
    assert found["isolated"]["isolated"]["turnaround_s_p99"] == 1.0


TURNS = Turns(
    ("pool", "llama.cpp", "llama.cpp-q4_0"),
    at_once=None,
    rate=None,
    share=0.5,
    share_of="isolated",
    duration_s=2.0,
    drain_s=60.0,
)
HOW = "needs gguf and xllamacpp: pip install 'expertpool[bench]'"


class StandIn:
    """What stands in for opening arms: notes what would run, and answers in two seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capacities: list[str] = []
        self.jobs: list[Sequence[TimedJob]] = []

        def capacity(name: str, *_: object, **__: object) -> float:
            self.capacities.append(name)
            return 20.0

        def run(
            names: Sequence[str], _: Ground, jobs: Sequence[TimedJob], **__: object
        ) -> list[ArmResult]:
            self.jobs.append(jobs)
            found = [Outcome(job, job.at_s, job.at_s, job.at_s + 2.0, 2) for job in jobs]
            return [ArmResult(name, 1, found, ClientLoad(None, 0.0), {}) for name in names]

        def why_not_here(name: str, _: Ground) -> str | None:
            return HOW if name in PRECISIONS else None

        monkeypatch.setattr(comparing, "capacity", capacity)
        monkeypatch.setattr(comparing, "compare", run)
        monkeypatch.setattr(comparing, "why_not_here", why_not_here)

    def measured(self, turns: Turns) -> Result:
        settings = {"duration_s": turns.duration_s}
        return measure_arms(GROUND, ASKED, LOAD, turns, settings, lambda *_: None)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(monkeypatch)


def test_an_arm_that_cannot_run_here_is_skipped_with_one_line_and_the_others_run(
    stand_in: StandIn,
) -> None:
    result = stand_in.measured(TURNS)
    assert [row["arm"] for row in result.rows] == ["pool"]
    troubles = [part.words for part in terminal(result) if isinstance(part, Trouble)]
    assert troubles[0] == f"skipped: llama.cpp, llama.cpp-q4_0: {HOW}"
    (section, *_) = sections(result)
    assert f"Skipped: llama.cpp, llama.cpp-q4_0: {HOW}." in section.words


def test_nothing_is_measured_if_no_arm_can_run_here_or_the_rate_depends_on_one_that_cannot(
    stand_in: StandIn,
) -> None:
    with pytest.raises(ConfigError, match=r"none of llama.cpp can run here: needs gguf"):
        stand_in.measured(replace(TURNS, arms=("llama.cpp",)))
    beyond = replace(TURNS, share_of="llama.cpp-q4_0")
    with pytest.raises(ConfigError, match=r"what llama.cpp-q4_0 can sustain .*: needs gguf"):
        stand_in.measured(beyond)
    assert stand_in.measured(replace(beyond, rate=20.0)).facts["rate"] == 20.0
    assert stand_in.capacities == []


def test_the_rate_is_a_share_of_what_the_named_arm_can_sustain(stand_in: StandIn) -> None:
    result = stand_in.measured(TURNS)
    assert stand_in.capacities == ["isolated"]
    assert result.facts["rate"] == 10.0
    words = terminal(result)[1]
    assert isinstance(words, str)
    assert words.endswith("10.00 a second, 50% of the 20.00 that isolated can sustain")


def test_requests_may_come_all_at_once(stand_in: StandIn) -> None:
    result = stand_in.measured(replace(TURNS, at_once=7))
    (jobs,) = stand_in.jobs
    assert len(jobs) == 7
    assert {job.at_s for job in jobs} == {0.0}
    assert stand_in.capacities == []
    assert terminal(result)[1] == "7 requests, all at once"
