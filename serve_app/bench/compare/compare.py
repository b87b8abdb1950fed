"""The same jobs through several arms, one after another, and what each made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.bench.arms.answering import ArmResult, opened, run_arm
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import arm_spec, usable_cores
from serve_app.bench.arms.process import answer_all
from serve_app.bench.requests.outcomes import Outcome, answered
from serve_app.bench.requests.workload import (
    Asked,
    Job,
    Workload,
)
from serve_app.bench.result.measured import OnProgress
from serve_app.errors import EngineError

RATIOS_TO = ("single", "isolated")
"""Arms that the others are held against, where they took part."""
BATCHES = 3
"""How many times as many jobs as may run at once measure what an arm can take."""


def capacity(
    ground: Ground, workload: Workload, asked: Sequence[Asked], *, on_progress: OnProgress
) -> float:
    """Requests a second that the pool answers while more than it can run at once wait.

    Counted from when as many have been answered as may run at once until as many are left.
    """
    spec = arm_spec("pool", ground, usable_cores())
    at_once = ground.limits.max_sequences
    jobs = workload.jobs(workload.backlog(BATCHES * at_once), asked).jobs
    stage = "capacity"
    on_progress(stage, 0, len(jobs))
    with opened(spec) as processes:
        found = answer_all(
            processes,
            jobs,
            drain_s=600.0,
            on_progress=lambda done: on_progress(stage, done, len(jobs)),
        )
    return rate_between([o for one in found for o in one.run.outcomes], at_once)


def rate_between(outcomes: Sequence[Outcome], at_once: int) -> float:
    """Answers a second, leaving out the first and the last `at_once` of them."""
    ends = sorted(o.finished_s for o in answered(outcomes) if o.finished_s is not None)
    if len(ends) < len(outcomes):
        raise EngineError(f"{len(outcomes) - len(ends)} of {len(outcomes)} requests were lost")
    first, last = ends[at_once - 1], ends[-at_once - 1]
    return (len(ends) - 2 * at_once) / (last - first)


def compare(
    names: Sequence[str],
    ground: Ground,
    jobs: Sequence[Job],
    *,
    drain_s: float,
    on_progress: OnProgress = lambda *_: None,
) -> list[ArmResult]:
    """The jobs through every arm in turn. Raises: EngineError where one cannot be opened."""
    cores = usable_cores()
    return [
        run_arm(arm_spec(name, ground, cores), jobs, drain_s=drain_s, on_progress=on_progress)
        for name in names
    ]


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Of every arm's numbers to those of `single` and `isolated`, where there are such numbers."""
    by_name = {row["arm"]: _held_against(row) for row in rows}
    return {
        other: {
            name: {
                measure: value / by_name[other][measure]
                for measure, value in own.items()
                if by_name[other].get(measure)
            }
            for name, own in by_name.items()
        }
        for other in RATIOS_TO
        if other in by_name
    }


def _held_against(row: Mapping[str, Any]) -> dict[str, float]:
    numbers = row["all"]
    found = {"device_bytes": float(row["device_bytes"])}
    for measure in ("turnaround_s", "queue_s", "ttft_s", "tpot_s"):
        if numbers[measure] is not None:
            found |= {f"{measure}_{which}": value for which, value in numbers[measure].items()}
    if numbers["answer_tokens_per_s"] is not None:
        found["answer_tokens_per_s"] = numbers["answer_tokens_per_s"]
    return found
