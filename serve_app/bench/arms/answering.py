"""Runs all jobs through one arm: opens, warms up, asks and closes it. Compares nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from serve_app.bench.arms.arm_catalogue import ArmSpec
from serve_app.bench.arms.process import ArmProcess, answer_all
from serve_app.bench.requests.open_loop import ClientLoad, lateness
from serve_app.bench.requests.outcomes import Outcome, answered, summary
from serve_app.bench.requests.workload import TimedJob
from serve_app.bench.result.measured import OnProgress
from serve_app.errors import EngineError

WARM_TOKENS = 4
"""Tokens of the prompt and of the answer that warm each model up."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """The outcome of the jobs on an arm. facts: what else the arm reports."""

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
    """The processes of an arm, ready and warm. They end with the block.

    Raises: EngineError if one cannot be opened.
    """
    processes = [ArmProcess(one) for one in spec.processes]
    try:
        for process in processes:
            process.wait_until_open()
        warm = [
            TimedJob(0.0, name, (3,) * WARM_TOKENS, WARM_TOKENS, 0)
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
    jobs: Sequence[TimedJob],
    *,
    drain_s: float,
    on_progress: OnProgress,
    on_ready: Callable[[], None] = lambda: None,
) -> ArmResult:
    """Run all jobs through one arm. on_ready: called when it is warm, before the first job.

    Raises: EngineError if it cannot be opened, or fails.
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
