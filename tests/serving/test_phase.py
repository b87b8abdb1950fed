"""A phase is said when it begins, and again while it lasts."""

import time
from threading import Event

import pytest

from serve_app.phase import phase


def test_a_short_phase_is_one_line_and_its_seconds_are_known() -> None:
    said: list[str] = []
    with phase("reading", said.append) as so_far:
        time.sleep(0.02)
    assert said == ["reading"]
    assert 0.02 <= so_far() < 10


def test_a_long_phase_is_said_again_and_again_until_it_ends() -> None:
    said: list[str] = []
    thrice = Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 4:
            thrice.set()

    with phase("reading", say, every_s=0.01):
        assert thrice.wait(10)
    time.sleep(0.05)
    num = len(said)
    time.sleep(0.05)
    assert said[:4] == ["reading", *["reading: 0 s so far"] * 3]
    assert len(said) == num


def test_a_phase_that_fails_is_not_said_any_more() -> None:
    said: list[str] = []
    with pytest.raises(OSError, match="gone"), phase("reading", said.append, every_s=0.01):
        raise OSError("gone")
    time.sleep(0.05)
    num = len(said)
    time.sleep(0.05)
    assert len(said) == num
