"""Rates and the time that is left."""

import pytest

from consolidation.run.executor import Progress
from serve_app.cli.progress.pace import Pace, Paces, amount, duration, times


def test_nothing_is_told_before_something_was_done() -> None:
    pace = Pace(begun=0.0, found=40, total=100, done=40, told=10.0)
    assert pace.rate() is None
    assert pace.seconds_left(11.0) is None


def test_what_was_found_does_not_count_for_the_rate() -> None:
    pace = Pace(begun=0.0, found=40, total=100, done=60, told=10.0)
    assert pace.rate() == 2.0
    assert pace.seconds_left(10.0) == 20.0


def test_the_time_left_runs_down_and_grows_where_the_rate_was_too_high() -> None:
    pace = Pace(begun=0.0, found=0, total=100, done=50, told=10.0)
    assert [pace.seconds_left(now) for now in (10.0, 15.0, 20.0)] == [10.0, 5.0, 0.0]
    assert pace.seconds_left(30.0) == 30.0


def test_the_share_of_a_task_that_runs_counts() -> None:
    paces = Paces()
    paces.told(Progress("code", 0, 4), 0.0)
    pace, begins = paces.told(Progress("code", 1, 4, share=0.5), 30.0)
    assert not begins
    assert pace.seconds_left(30.0) == 50.0


def test_a_stage_that_begins_again_has_a_new_pace() -> None:
    paces = Paces()
    for done in (0, 2):
        paces.told(Progress("build", done, 2), 10.0 * done)
    pace, begins = paces.told(Progress("build", 0, 2), 50.0)
    assert begins
    assert pace.begun == 50.0


def test_bytes_are_told_where_they_are_known() -> None:
    assert amount(Progress("open", 1, 2)) == "1/2"
    assert amount(Progress("scan", 1, 2, num_bytes=(0, 0, 0))) == "1/2"
    assert amount(Progress("scan", 1, 2, num_bytes=(1 << 20, 1 << 30, 0))) == "1.00 MiB of 1.00 GiB"


def test_one_time_is_told_of_a_stage() -> None:
    pace = Pace(begun=0.0, found=0, total=100, done=0, told=0.0)
    assert times(pace, 5.0) == "for 5 s"
    pace.done, pace.told = 50, 10.0
    assert times(pace, 12.0) == "8 s left"
    pace.done, pace.told = 100, 30.0
    assert times(pace, 99.0) == "took 30 s"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99.0, "99 s"), (720.0, "12 min"), (12600.0, "3.5 h")]
)
def test_times_are_told_in_one_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words
