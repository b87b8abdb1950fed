"""The same jobs through several arms, one after another, and what each made of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import ArmSpec, arm_spec, usable_cores
from serve_app.bench.arms.process import ArmProcess, answer_all
from serve_app.bench.requests.open_loop import ClientLoad, lateness
from serve_app.bench.requests.outcomes import Outcome, answered, summary
from serve_app.bench.requests.workload import (
    Arrival,
    Asked,
    Job,
    Lengths,
    Workload,
    poisson,
    workload,
)
from serve_app.bench.result.measured import OnProgress
from serve_app.errors import EngineError

WARM_TOKENS = 4
RATIOS_TO = ("single", "isolated")
"""Arms that the others are held against, where they took part."""
BATCHES = 3
"""How many times as many jobs as may run at once measure what an arm can take."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked: answers of `answer` tokens to prompts of `prompt`, models by popularity."""

    prompt: Lengths
    answer: Lengths
    skew: float
    seed: int

    def arrivals(self, rate: float, duration_s: float) -> list[Arrival]:
        return poisson(
            rate, prompt=self.prompt, answer=self.answer, seed=self.seed, duration_s=duration_s
        )

    def backlog(self, num: int) -> list[Arrival]:
        """So many, all due at once."""
        found = poisson(1.0, prompt=self.prompt, answer=self.answer, seed=self.seed + 1, num=num)
        return [replace(arrival, at_s=0.0) for arrival in found]

    def jobs(self, arrivals: Sequence[Arrival], asked: Sequence[Asked]) -> Workload:
        return workload(arrivals, asked, skew=self.skew, seed=self.seed)


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What an arm made of the jobs. facts: what it says of itself besides."""

    name: str
    device_bytes: int
    outcomes: list[Outcome]
    client: ClientLoad
    facts: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        found = summary(self.outcomes)
        return {
            "arm": self.name,
            "device_bytes": self.device_bytes,
            **found,
            "errors": sorted({o.error for o in self.outcomes if o.error is not None}),
            "client": self.client.to_json(),
            "warnings": self.client.warnings(found["all"]["ttft_s"]),
            "facts": dict(self.facts),
            "turnarounds_s": sorted(o.turnaround_s for o in answered(self.outcomes)),
        }


@contextmanager
def opened(spec: ArmSpec) -> Iterator[list[ArmProcess]]:
    """An arm's processes, ready and warm. They end with the block.

    Raises: EngineError where one cannot be opened.
    """
    processes = [ArmProcess(one) for one in spec.processes]
    try:
        for process in processes:
            process.wait_until_open()
        warm = [
            Job(0.0, name, (3,) * WARM_TOKENS, WARM_TOKENS, 0)
            for process in processes
            for name in process.spec.models
        ]
        for done in answer_all(processes, warm, drain_s=120.0):
            for outcome in done.run.outcomes:
                if outcome.is_lost:
                    raise EngineError(f"arm {spec.name!r} does not answer: {outcome.error}")
        yield processes
    finally:
        for process in processes:
            process.close()


def run_arm(
    spec: ArmSpec,
    jobs: Sequence[Job],
    *,
    drain_s: float,
    on_progress: OnProgress,
    on_ready: Callable[[], None] = lambda: None,
) -> ArmResult:
    """All jobs through one arm. on_ready: called when it is warm, before the first of them.

    Raises: EngineError where it cannot be opened, or breaks.
    """
    only = spec.only_model
    asked = [job if only is None else replace(job, model=only) for job in jobs]
    on_progress(spec.name, 0, len(jobs))
    with opened(spec) as processes:
        on_ready()
        found = answer_all(
            processes,
            asked,
            drain_s=drain_s,
            on_progress=lambda done: on_progress(spec.name, done, len(jobs)),
        )
    outcomes = [outcome for one in found for outcome in one.run.outcomes]
    outcomes.sort(key=lambda outcome: outcome.job.at_s)
    client = ClientLoad(lateness(outcomes), sum(one.run.client.processor_share for one in found))
    facts = {name: value for one in found for name, value in one.facts.items()}
    device_bytes = sum(one.device_bytes for one in found)
    return ArmResult(spec.name, device_bytes, outcomes, client, facts)


def capacity(
    ground: Ground, load: Load, asked: Sequence[Asked], *, on_progress: OnProgress
) -> float:
    """Requests a second that the pool answers while more than it can run at once wait.

    Counted from when as many have been answered as may run at once until as many are left.
    """
    spec = arm_spec("pool", ground, usable_cores())
    at_once = ground.limits.max_sequences
    jobs = load.jobs(load.backlog(BATCHES * at_once), asked).jobs
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
