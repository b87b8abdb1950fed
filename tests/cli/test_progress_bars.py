"""What the bars say about rate, time left and what was found."""

import pytest

from consolidation.run.executor import Progress
from serve_app.cli.progress_bars import Pace, duration, progress


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


def test_a_stage_says_what_it_found_and_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as show:
        show(Progress("calibrate", 3, 4, 3, "models", (3 << 30, 4 << 30, 3 << 30)))
        show(Progress("calibrate", 4, 4, 3, "models", (4 << 30, 4 << 30, 3 << 30)))
    said = capsys.readouterr()
    assert said.out == ""
    assert "calibrate: 3 of 4 models are there already" in said.err
    assert "4.00 GiB of 4.00 GiB" in said.err


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99.0, "99 s"), (720.0, "12 min"), (12600.0, "3.5 h")]
)
def test_times_are_told_in_one_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words
