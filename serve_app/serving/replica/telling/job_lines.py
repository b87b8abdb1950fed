"""One line of the engine's log for each job that has ended. Never what was asked or answered."""

import logging
from dataclasses import dataclass

from consolidation.release import Side
from serve_app.logs.about import JOBS, about
from serve_app.protocol.errors import ErrorCode
from serve_app.protocol.messages import Job
from serve_app.serving.metrics.counting import RequestMetrics

_log = logging.getLogger(__name__)
_ended = logging.getLogger(JOBS)


@dataclass(slots=True)
class Answering:
    """What is known of a job so far.   counted: once it has prompts that the engine may take.

    code: of the error that has ended it.
    """

    side: Side = "stable"
    model: str | None = None
    release: str | None = None
    counted: RequestMetrics | None = None
    code: ErrorCode | None = None


def tell_fault(job: Job, words: str) -> None:
    """It failed, and its client is not to blame."""
    told = about(kind="job failed", request=job.get("request"), job=job["id"])
    _log.error("job %s failed: %s", job["id"], words, extra=told)


def tell_end(job: Job, answering: Answering, seconds: float) -> None:
    """However it has ended."""
    if not _ended.isEnabledFor(logging.INFO):
        return
    counted, code = answering.counted, answering.code
    _ended.info(
        "job",
        extra=about(
            kind=None if code is None else f"job {code} {job['tenant']}",
            is_limited=code is not None,
            request=job.get("request"),
            job=job["id"],
            tenant=job["tenant"],
            model=answering.model,
            release=answering.release,
            side=answering.side,
            code=code,
            prompt_tokens=None if counted is None else counted.num_prompt,
            answer_tokens=None if counted is None else counted.num_generated,
            total_s=round(seconds, 3),
        ),
    )
