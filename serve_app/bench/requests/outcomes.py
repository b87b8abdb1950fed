"""The outcomes of a workload's jobs, in numbers. Pure; measures nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.bench.requests.workload import TimedJob

JAIN_OF = "mean turnaround per answer token, by model"
"""What the fairness index compares."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job. Times are in seconds from the start of the run, like `TimedJob.at_s`.

    submitted_s: when it was sent.   first_s, finished_s: when its first and last token came; None
    if none did.   queued_s: how long it waited before anything was computed, counted from when it
    was sent; None if unknown.   tokens: of the answer, if known.
    error: why there is no complete answer.
    """

    job: TimedJob
    submitted_s: float
    first_s: float | None
    finished_s: float | None
    num_tokens: int
    queued_s: float | None = None
    tokens: tuple[int, ...] = ()
    error: str | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it has no complete answer."""
        return self.finished_s is None or self.error is not None

    @property
    def turnaround_s(self) -> float:
        """From the job's arrival, whenever it was sent, to its last token."""
        assert self.finished_s is not None
        return self.finished_s - self.job.at_s


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Numbers for all jobs and for each model, and the fairness between models.

    Waits are counted from a job's arrival. Lost jobs count only as lost.
    """
    names = sorted({outcome.job.model for outcome in outcomes})
    by_model = {name: [o for o in outcomes if o.job.model == name] for name in names}
    return {
        "all": numbers(outcomes),
        "models": {name: numbers(own) for name, own in by_model.items()},
        "jain": jain([_per_token(own) for own in by_model.values() if answered(own)]),
        "jain_of": JAIN_OF,
    }


def numbers(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts, rates and distributions of some jobs. Seconds; None if there are no values.

    seconds: from the first arrival to the last token. Rates are per second of it.
    """
    done = answered(outcomes)
    seconds = (
        max(o.finished_s or 0.0 for o in done) - min(o.job.at_s for o in outcomes) if done else None
    )
    answer_tokens = sum(o.num_tokens for o in done)
    return {
        "requests": len(outcomes),
        "lost": len(outcomes) - len(done),
        "prompt_tokens": sum(len(o.job.prompt) for o in done),
        "answer_tokens": answer_tokens,
        "seconds": seconds,
        "answer_tokens_per_s": answer_tokens / seconds if seconds else None,
        "requests_per_s": len(done) / seconds if seconds else None,
        "turnaround_s": spread(o.turnaround_s for o in done),
        "queue_s": spread(
            o.submitted_s - o.job.at_s + o.queued_s for o in done if o.queued_s is not None
        ),
        "ttft_s": spread(o.first_s - o.job.at_s for o in done if o.first_s is not None),
        "tpot_s": spread(
            (o.finished_s - o.first_s) / (o.num_tokens - 1)
            for o in done
            if o.first_s is not None and o.finished_s is not None and o.num_tokens > 1
        ),
    }


def answered(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The completely answered jobs."""
    return [outcome for outcome in outcomes if not outcome.is_lost]


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """Mean and percentiles, interpolated between neighbours; None if there are no values."""
    found = list(values)
    if not found:
        return None
    p50, p90, p99 = np.quantile(found, [0.5, 0.9, 0.99]).tolist()
    return {"mean": sum(found) / len(found), "p50": p50, "p90": p90, "p99": p99}


def jain(values: Sequence[float]) -> float | None:
    """Jain's index of fairness: 1 if all values are equal, 1/n if one has everything.

    (Jain, Chiu, Hawe: A quantitative measure of fairness, DEC-TR-301, 1984.)
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def _per_token(outcomes: Iterable[Outcome]) -> float:
    """Mean turnaround divided by the length of the answer, in seconds per token."""
    each = [o.turnaround_s / max(1, o.num_tokens) for o in answered(outcomes)]
    return sum(each) / len(each)
