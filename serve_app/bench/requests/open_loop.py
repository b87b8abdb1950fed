"""An open loop: sends each job when it is due, even if others are unfinished; notes answers.

It asks a `Target`; nothing here knows an engine or HTTP.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.bench.requests.outcomes import Outcome, spread
from serve_app.bench.requests.workload import TimedJob

PROGRESS_S = 0.25
"""How often progress is reported."""
LATE_SHARE = 0.1
"""From this share of the median time to first token on, lateness gives a warning."""
BUSY_SHARE = 0.5
"""From this share of a core on, the client's processor time gives a warning."""


@dataclass(slots=True)
class _Note:
    submitted: float | None = None
    first: float | None = None
    last: float | None = None
    ended: bool = False
    num_tokens: int = 0
    queued_s: float | None = None
    tokens: list[int] = field(default_factory=list)
    error: str | None = None
    noting_s: float = 0.0


class Notes:
    """What is known about each job of a run, by index. Any thread may write, but one per job."""

    def __init__(
        self, jobs: Sequence[TimedJob], start: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """start: of the run, by the clock; all times are relative to it."""
        self._jobs = jobs
        self._start = start
        self._clock = clock
        self._notes = [_Note() for _ in jobs]
        self._num_open = len(jobs)
        self._lock = threading.Lock()
        self._all_ended = threading.Event()
        if not jobs:
            self._all_ended.set()

    def sent(self, index: int) -> None:
        """The job goes out now."""
        self._notes[index].submitted = self._clock()

    def queued(self, index: int, seconds: float) -> None:
        """How long the job waited, once sent, before anything of it was computed."""
        self._notes[index].queued_s = seconds

    def progressed(self, index: int, token: int | None = None) -> None:
        """A token of the answer came; says which, if known."""
        note = self._notes[index]
        note.last = now = self._clock()
        if note.first is None:
            note.first = now
        note.num_tokens += 1
        if token is not None:
            note.tokens.append(token)
        note.noting_s += self._clock() - now

    def answered(self, index: int, *, first: float, last: float, tokens: Sequence[int]) -> None:
        """The whole answer at once, and when its first and last token came, by the clock."""
        note = self._notes[index]
        note.first, note.last, note.num_tokens = first, last, len(tokens)
        note.tokens = list(tokens)

    def counted(self, index: int, num_tokens: int) -> None:
        """The answer has this many tokens, however many pieces it came in."""
        self._notes[index].num_tokens = num_tokens

    def ended(self, index: int, error: str | None = None) -> None:
        """The answer is complete, or will stay incomplete, and why. The first call counts."""
        note = self._notes[index]
        with self._lock:
            if note.ended:
                return
            note.ended, note.error = True, error
            self._num_open -= 1
            if not self._num_open:
                self._all_ended.set()

    @property
    def noting_s(self) -> float:
        """What the noting itself took so far, which is the client's work and not the target's."""
        return sum(note.noting_s for note in self._notes)

    @property
    def num_ended(self) -> int:
        return len(self._jobs) - self._num_open

    def wait(self, seconds: float) -> bool:
        """Whether all jobs have ended; waits at most that long."""
        return self._all_ended.wait(max(0.0, seconds))

    def outcomes(self, unfinished: str) -> list[Outcome]:
        """The outcome of every job. unfinished: the error of those that have not ended."""
        return [
            self._outcome(job, note, unfinished)
            for job, note in zip(self._jobs, self._notes, strict=True)
        ]

    def _outcome(self, job: TimedJob, note: _Note, unfinished: str) -> Outcome:
        error = note.error if note.ended else unfinished
        return Outcome(
            job=job,
            submitted_s=job.at_s if note.submitted is None else note.submitted - self._start,
            first_s=None if note.first is None else note.first - self._start,
            finished_s=None if note.last is None or error else note.last - self._start,
            num_tokens=note.num_tokens,
            queued_s=note.queued_s,
            tokens=tuple(note.tokens),
            error=error,
        )


class Target(Protocol):
    """Answers jobs. Notes its answers from its own threads."""

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        """Start to answer a job. Does not wait."""
        ...


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """Whether the client kept up.

    lateness_s: how late jobs were sent; mean and percentiles.
    processor_share: processor time of sending and noting, of one core, over the run.
    """

    lateness_s: dict[str, float] | None
    processor_share: float

    def warnings(self, ttft_s: dict[str, float] | None) -> list[str]:
        """Warnings about the results. ttft_s: the measured times to first token."""
        found = []
        late = self.lateness_s["p99"] if self.lateness_s else 0.0
        if ttft_s is not None and late > LATE_SHARE * ttft_s["p50"]:
            found.append(
                f"1 % of the requests went out {late * 1e3:.1f} ms late or later, more than "
                f"{LATE_SHARE:.0%} of the median time to first token: waits include this"
            )
        if self.processor_share > BUSY_SHARE:
            found.append(
                f"the client took {self.processor_share:.0%} of a core, more than "
                f"{BUSY_SHARE:.0%}: it may limit the results"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {"lateness_s": self.lateness_s, "processor_share": self.processor_share}


def lateness(outcomes: Sequence[Outcome]) -> dict[str, float] | None:
    """How late jobs were sent, seconds."""
    return spread(max(0.0, outcome.submitted_s - outcome.job.at_s) for outcome in outcomes)


@dataclass(frozen=True, slots=True)
class Run:
    """The outcomes of the jobs, and how well the client kept up."""

    outcomes: list[Outcome]
    client: ClientLoad


def drive(
    target: Target,
    jobs: Sequence[TimedJob],
    *,
    start: float,
    drain_s: float,
    on_progress: Callable[[int], None] = lambda _: None,
    processor_s: Callable[[], float] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Run:
    """Submit every job when it is due, and wait for the answers.

    jobs: in the order in which they are due.   start: of the run, by the clock; may be ahead.
    drain_s: how long after the last job is due an answer may come; a job without one is lost.
    on_progress: called from time to time with the number of jobs that have ended.
    processor_s: the processor time that the client has taken so far; without it that of this
    thread until the last job is sent, and what noting takes, are the client's.
    """
    notes = Notes(jobs, start, clock)
    taken, told = (processor_s or time.thread_time)(), start
    for index, job in enumerate(jobs):
        while (ahead := start + job.at_s - clock()) > 0:
            sleep(min(ahead, PROGRESS_S))
            if clock() - told > PROGRESS_S:
                told = clock()
                on_progress(notes.num_ended)
        notes.sent(index)
        target.submit(index, job, notes)
    sent = time.thread_time()
    deadline = start + (jobs[-1].at_s if jobs else 0.0) + drain_s
    while not notes.wait(min(PROGRESS_S, deadline - clock())) and clock() < deadline:
        on_progress(notes.num_ended)
    on_progress(notes.num_ended)
    outcomes = notes.outcomes(f"no complete answer within {drain_s:g} s after the last arrival")
    busy = (processor_s() if processor_s else sent + notes.noting_s) - taken
    return Run(outcomes, ClientLoad(lateness(outcomes), busy / max(clock() - start, 1e-9)))
