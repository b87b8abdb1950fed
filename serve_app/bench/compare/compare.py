"""Sends the same jobs through several arms, one after another, and reports the outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.bench.arms.answering import ArmResult, opened, run_arm
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import (
    ARMS,
    arm_spec,
    has_mps,
    usable_cores,
    why_not_here,
)
from serve_app.bench.arms.process import ArmProcess, answer_all
from serve_app.bench.compare import ratios
from serve_app.bench.requests.outcomes import Outcome, answered
from serve_app.bench.requests.workload import (
    LONG_S,
    Asked,
    JobList,
    TimedJob,
    Workload,
)
from serve_app.bench.result.environment import environment
from serve_app.bench.result.measured import OnProgress
from serve_app.bench.result.result import Result
from serve_app.errors import ConfigError, EngineError

BATCHES = 3
"""Capacity is measured with this many times as many jobs as may run at once."""


def capacity(
    name: str,
    ground: Ground,
    workload: Workload,
    asked: Sequence[Asked],
    *,
    on_progress: OnProgress,
) -> float:
    """Requests/s that an arm answers while more requests wait than can run at once.

    Raises: EngineError if it cannot be opened, or a request is lost.
    """
    spec = arm_spec(name, ground, usable_cores())
    own = [one for one in asked if spec.only_model in (None, one.name)]
    with opened(spec) as processes:
        return sustained(processes, ground, workload, own, on_progress=on_progress)


def sustained(
    processes: Sequence[ArmProcess],
    ground: Ground,
    workload: Workload,
    asked: Sequence[Asked],
    *,
    on_progress: OnProgress,
) -> float:
    """The same of an arm that is open.

    Leaves out the first and the last batch of as many requests as may run at once.
    """
    at_once = ground.engine.max_sequences
    jobs = workload.jobs(workload.backlog(BATCHES * at_once), asked).jobs
    stage = "capacity"
    on_progress(stage, 0, len(jobs))
    found = answer_all(
        processes,
        jobs,
        drain_s=600.0,
        on_progress=lambda done: on_progress(stage, done, len(jobs)),
    )
    return rate_between([o for one in found for o in one.run.outcomes], at_once)


def rate_between(outcomes: Sequence[Outcome], at_once: int) -> float:
    """Answers per second, without the first and the last `at_once` of them."""
    ends = sorted(o.finished_s for o in answered(outcomes) if o.finished_s is not None)
    if len(ends) < len(outcomes):
        raise EngineError(f"{len(outcomes) - len(ends)} of {len(outcomes)} requests were lost")
    first, last = ends[at_once - 1], ends[-at_once - 1]
    return (len(ends) - 2 * at_once) / (last - first)


def compare(
    names: Sequence[str],
    ground: Ground,
    jobs: Sequence[TimedJob],
    *,
    drain_s: float,
    on_progress: OnProgress = lambda *_: None,
) -> list[ArmResult]:
    """Run the jobs through every arm in turn. Raises: EngineError if one cannot be opened."""
    cores = usable_cores()
    return [
        run_arm(arm_spec(name, ground, cores), jobs, drain_s=drain_s, on_progress=on_progress)
        for name in names
    ]


@dataclass(frozen=True, slots=True)
class Turns:
    """Which arms to run, and when requests come.

    at_once: so many requests, all due at the start; None for arrivals over `duration_s`.
    rate: of the arrivals, per second; None for `share` times what the arm `share_of` can sustain.
    """

    arms: Sequence[str]
    at_once: int | None
    rate: float | None
    share: float
    share_of: str
    duration_s: float
    drain_s: float


def measure_arms(
    ground: Ground,
    asked: Sequence[Asked],
    workload: Workload,
    turns: Turns,
    settings: Mapping[str, Any],
    on_progress: OnProgress,
) -> Result:
    """All of `bench compare`: the rate, then the same jobs through every arm in turn.

    An arm that cannot run here is left out, and the facts say why. settings: for the record.
    Raises: ConfigError if no request arrives, or no arm is left; EngineError if an arm cannot be
    opened.
    """
    here = environment(ground.engine.device)
    skipped = _skipped(turns, ground)
    facts, made = _jobs(ground, asked, workload, turns, on_progress)
    names = [name for name in turns.arms if name not in skipped]
    answered = compare(names, ground, made.jobs, drain_s=turns.drain_s, on_progress=on_progress)
    facts |= {"requests": len(made.jobs), "num_cut": made.num_cut, "skipped": skipped}
    rows = [one.to_json() | {"what": ARMS[one.name]} for one in answered]
    facts["ratios"] = ratios.ratios(rows)
    if here.cuda is not None:
        facts["multiprocessors_divided"] = has_mps()
    return Result("compare", here, settings, rows, facts, noun="arms")


def _skipped(turns: Turns, ground: Ground) -> dict[str, str]:
    """The arms that cannot run here, and why. Raises: ConfigError if nothing can be measured."""
    found = {name: why for name in turns.arms if (why := why_not_here(name, ground)) is not None}
    if len(found) == len(turns.arms):
        why_none = "; ".join(dict.fromkeys(found.values()))
        raise ConfigError(f"none of {', '.join(found)} can run here: {why_none}")
    asked_of = turns.share_of if turns.at_once is None and turns.rate is None else None
    if asked_of is not None and (why := why_not_here(asked_of, ground)) is not None:
        raise ConfigError(f"what {asked_of} can sustain cannot be measured: {why}")
    return found


def _jobs(
    ground: Ground,
    asked: Sequence[Asked],
    workload: Workload,
    turns: Turns,
    on_progress: OnProgress,
) -> tuple[dict[str, Any], JobList]:
    """What to send, and facts about when. Raises: ConfigError if no request arrives."""
    if turns.at_once is not None:
        return {}, workload.jobs(workload.backlog(turns.at_once), asked)
    facts: dict[str, Any] = {"arrivals_are_short": turns.duration_s < LONG_S}
    rate = turns.rate
    if rate is None:
        name = turns.share_of
        taken = capacity(name, ground, workload, asked, on_progress=on_progress)
        rate = turns.share * taken
        facts |= {"capacity": taken, "capacity_of": name, "load": turns.share}
    made = workload.jobs(workload.arrivals(rate, turns.duration_s), asked)
    if not made.jobs:
        raise ConfigError(f"no request arrives in {turns.duration_s:g} s at {rate:.3g} a second")
    return facts | {"rate": rate}, made
