"""Measures what a tenant that floods an endpoint does to one that asks now and then."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from serve_app.bench.arms.answering import opened
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import ArmSpec
from serve_app.bench.arms.endpoint import HttpSpec
from serve_app.bench.arms.process import ArmProcess, answer_all
from serve_app.bench.http.local_endpoint import endpoint_of, published
from serve_app.bench.requests.outcomes import numbers
from serve_app.bench.requests.workload import Asked, Lengths, TimedJob, Workload
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.tenants.endpoint_tenants import tenants
from serve_app.errors import EngineError

ROUNDS = 5
NUM_QUIET, EVERY_S = 20, 0.3
"""Requests of the quiet tenant in a round, and the time from one to the next."""
NUM_FLOOD = 96
"""Requests that the other tenant sends at once, when a round begins."""
TOKENS = 32
_DRAIN_S = 120.0


def quiet_beside_flood(
    ground: Ground,
    asked: Sequence[Asked],
    *,
    rounds: int = ROUNDS,
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """The quiet tenant's p99 turnaround while the other floods, divided by that alone: the median
    of several rounds, after one that does not count.

    The quiet one asks the first model, the other all others.
    Raises: EngineError if the endpoint does not get ready, or a request is lost.
    """
    first, *others = asked
    with (
        published(ground) as ready,
        tenants("quiet", "flood") as kept,
        endpoint_of(ready, kept["quiet"]) as spec,
    ):
        (quiet,) = spec.processes
        assert isinstance(quiet, HttpSpec)
        flood = replace(quiet, models=tuple(one.name for one in others), key=kept["flood"].key)
        quiet = replace(quiet, models=(first.name,))
        found = []
        with opened(ArmSpec("tenants", (quiet, flood))) as clients:
            for number in range(rounds + 1):
                on_progress("quiet tenant", number, rounds + 1)
                own, much = _quiet(first, number), _flood(others, number)
                found.append((_p99(clients, own), _p99(clients, [*own, *much])))
    on_progress("quiet tenant", rounds + 1, rounds + 1)
    alone, beside = zip(*found[1:], strict=True)
    ratio = statistics.median(b / a for a, b in found[1:])
    return Measured(ratio, {"alone_p99_s": alone, "beside_p99_s": beside})


def _quiet(asked: Asked, number: int) -> list[TimedJob]:
    each = Lengths(TOKENS, TOKENS)
    workload = Workload(each, each, skew=0.0, seed=1000 + number)
    jobs = workload.jobs(workload.backlog(NUM_QUIET), [asked]).jobs
    return [replace(job, at_s=EVERY_S * place) for place, job in enumerate(jobs)]


def _flood(asked: Sequence[Asked], number: int) -> list[TimedJob]:
    each = Lengths(TOKENS, TOKENS)
    workload = Workload(each, each, skew=0.0, seed=2000 + number)
    return list(workload.jobs(workload.backlog(NUM_FLOOD), asked).jobs)


def _p99(clients: Sequence[ArmProcess], jobs: Sequence[TimedJob]) -> float:
    """Of the first client's turnarounds, in seconds."""
    answers = answer_all(clients, jobs, drain_s=_DRAIN_S)
    for answered in answers:
        lost = [outcome for outcome in answered.run.outcomes if outcome.is_lost]
        if lost:
            raise EngineError(f"the endpoint lost {len(lost)} requests: {lost[0].error}")
    p99: float = numbers(answers[0].run.outcomes)["turnaround_s"]["p99"]
    return p99
