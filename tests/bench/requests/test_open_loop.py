"""The client sends when jobs are due, whatever is unfinished, and says how well it did."""

import threading
from collections.abc import Callable

import pytest

from serve_app.bench.requests.open_loop import ClientLoad, Notes, drive
from serve_app.bench.requests.outcomes import spread
from serve_app.bench.requests.workload import TimedJob


class Clock:
    """Time that passes while somebody sleeps, and by `tick` at every look."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 100.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Answering:
    """Answers some jobs when a later one comes, the others never."""

    def __init__(self, answer: Callable[[int], list[int]]) -> None:
        self.answer = answer
        self.sent: list[int] = []

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        self.sent.append(index)
        for earlier in self.answer(index):
            for token in range(job.max_tokens):
                notes.progressed(earlier, token)
            notes.ended(earlier)


JOBS = [TimedJob(at, "m", (3, 4), 2, 0) for at in (0.0, 1.0, 1.0, 5.0)]


def test_jobs_go_out_when_they_are_due_whatever_is_unfinished() -> None:
    clock = Clock()
    target = Answering(lambda index: [0, 1, 2, 3] if index == 3 else [])
    run = drive(target, JOBS, start=clock.now, drain_s=1.0, clock=clock, sleep=clock.sleep)
    assert target.sent == [0, 1, 2, 3]
    assert [o.submitted_s for o in run.outcomes] == pytest.approx([0.0, 1.0, 1.0, 5.0])
    assert [o.turnaround_s for o in run.outcomes] == pytest.approx([5.0, 4.0, 4.0, 0.0])
    assert all(o.tokens == (0, 1) and o.num_tokens == 2 for o in run.outcomes)


def test_a_start_that_lies_ahead_is_waited_for() -> None:
    clock = Clock()
    began = clock.now
    target = Answering(lambda index: [index])
    run = drive(target, JOBS[:1], start=began + 7, drain_s=1.0, clock=clock, sleep=clock.sleep)
    assert clock.now >= began + 7
    assert run.outcomes[0].submitted_s == pytest.approx(0.0)


def test_what_is_not_answered_in_time_is_lost_and_said_so() -> None:
    clock = Clock(tick=0.1)
    told: list[int] = []
    target = Answering(lambda index: [index] if index % 2 else [])
    run = drive(
        target,
        JOBS,
        start=clock.now,
        drain_s=0.5,
        clock=clock,
        sleep=clock.sleep,
        on_progress=told.append,
    )
    assert [o.is_lost for o in run.outcomes] == [True, False, True, False]
    assert run.outcomes[0].error == "no complete answer within 0.5 s after the last arrival"
    assert run.outcomes[0].finished_s is None
    assert told[-1] == 2


def test_lateness_of_sending_is_told() -> None:
    clock = Clock(tick=0.1)  # every look at the clock takes a tenth of a second
    target = Answering(lambda index: [index])
    run = drive(target, JOBS, start=clock.now, drain_s=1.0, clock=clock, sleep=clock.sleep)
    late = run.client.lateness_s
    assert late is not None
    assert 0.1 <= late["p50"] <= late["p99"] < 2.0


def test_a_client_that_limits_is_named() -> None:
    fast = ClientLoad(spread([0.001]), 0.1)
    assert fast.warnings(spread([0.1])) == []
    assert fast.warnings(None) == []
    late, busy = ClientLoad(spread([0.02]), 0.1), ClientLoad(spread([0.001]), 0.9)
    assert "20.0 ms late" in late.warnings(spread([0.1]))[0]
    assert "90% of a core" in busy.warnings(spread([0.1]))[0]


def test_the_first_end_of_a_job_counts() -> None:
    notes = Notes(JOBS[:1], 0.0)
    notes.sent(0)
    notes.ended(0, "refused")
    notes.ended(0)
    assert notes.num_ended == 1
    assert notes.wait(0)
    assert notes.outcomes("late")[0].error == "refused"


def test_notes_come_from_many_threads() -> None:
    notes = Notes(JOBS, 0.0)
    threads = [threading.Thread(target=notes.ended, args=(index,)) for index in range(len(JOBS))]
    for thread in threads:
        thread.start()
    assert notes.wait(10.0)
    for thread in threads:
        thread.join()
    assert notes.num_ended == len(JOBS)


def test_the_time_that_noting_takes_is_summed_over_threads_that_note_at_once() -> None:
    looks = iter(range(100))
    notes = Notes(JOBS[:2], 0.0, lambda: look())

    def look() -> float:
        now = next(looks)
        if now == 1:  # in the midst of noting one job, another thread notes the other
            other = threading.Thread(target=notes.progressed, args=(1,))
            other.start()
            other.join()
        return float(now)

    notes.progressed(0)
    assert notes.noting_s == 1 + 1


def test_a_run_without_jobs_ends_at_once() -> None:
    run = drive(Answering(lambda _: []), [], start=0.0, drain_s=10.0)
    assert run.outcomes == []
    assert run.client.lateness_s is None
