"""A row of a check: what it does, how it is run within its time, and its result."""

import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
"""What rows are run on."""


class Skipped(Exception):
    """The row needs a program that is not here."""


class OutOfTime(Exception):
    """The row's time is over."""


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """run: -> what was seen; an AssertionError says what fell short of the bar.

    bar: what is wanted, in words.   most_s: the row's time.
    """

    name: str
    run: Callable[[T], Mapping[str, Any]]
    bar: str
    most_s: int


@dataclass(frozen=True, slots=True)
class Result:
    """passed: None where the row was skipped."""

    name: str
    bar: str
    passed: bool | None
    seconds: float
    seen: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


class Short(AssertionError):
    """A bar was missed.   seen: what was seen all the same."""

    def __init__(self, why: str, seen: Mapping[str, Any]) -> None:
        super().__init__(why)
        self.seen = seen


def run_row(row: Row[T], subject: T) -> Result:
    """Runs one row. Whatever it raises is its failure; KeyboardInterrupt goes through."""
    begun = time.monotonic()

    def end(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"not within {row.most_s} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(row.most_s)
    seen: Mapping[str, Any] = {}
    passed: bool | None = True
    why = ""
    try:
        seen = row.run(subject)
    except Skipped as notice:
        passed, why = None, str(notice)
    except Short as short:
        passed, why, seen = False, str(short), short.seen
    except Exception as error:  # noqa: BLE001  the other rows are to be run all the same
        where = traceback.extract_tb(error.__traceback__)[-1]
        passed, why = False, f"{type(error).__name__} at {where.filename}:{where.lineno}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Result(row.name, row.bar, passed, time.monotonic() - begun, seen, why)
