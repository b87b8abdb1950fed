"""How fast a stage goes, and how long its rest will take. Shows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.units import size

if TYPE_CHECKING:
    from consolidation.run.executor import Progress


@dataclass(slots=True)
class Pace:
    """How fast a stage goes. Times are of one clock, in seconds; amounts are tasks or bytes.

    begun: when it began.   told: when `done` was told last.   found: what was done before it began.
    """

    begun: float
    found: float
    total: float
    done: float
    told: float

    def rate(self) -> float | None:
        """Amount a second since the beginning; None as long as nothing was done."""
        gained, taken = self.done - self.found, self.told - self.begun
        return gained / taken if gained > 0 and taken > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """The time that the rest takes at this rate; None as long as that cannot be told.

        It runs down between two tellings. When it has run out the rate was too high, so the rest
        is judged by all the time that has passed.
        """
        rate, rest = self.rate(), self.total - self.done
        if rate is None:
            return None
        left = rest / rate - (now - self.told)
        return left if left >= 0 else rest * (now - self.begun) / (self.done - self.found)


class Paces:
    """The paces of stages by name, and in words. A stage that begins again has a new one."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def told(self, progress: Progress, now: float) -> tuple[Pace, bool]:
        """The pace of a stage after this, and whether the stage has just begun."""
        if in_bytes(progress):
            assert progress.num_bytes is not None
            done, total, found = map(float, progress.num_bytes)
        else:
            done, total = progress.done + progress.share, float(progress.total)
            found = float(progress.found)
        pace = self._paces.get(progress.stage)
        begins = pace is None or pace.total != total or pace.done > done
        if pace is None or begins:
            pace = self._paces[progress.stage] = Pace(now, found, total, done, now)
        pace.done, pace.told = done, now
        return pace, begins


def in_bytes(progress: Progress) -> bool:
    """Whether a stage is counted in bytes; else it is in tasks."""
    return progress.num_bytes is not None and progress.num_bytes[1] > 0


def amount(progress: Progress) -> str:
    """What is done of what is to be done: `1.20 GiB of 4.00 GiB`, `3/16`."""
    if progress.num_bytes is not None and in_bytes(progress):
        return f"{size(progress.num_bytes[0])} of {size(progress.num_bytes[1])}"
    return f"{progress.done}/{progress.total}"


def rate(progress: Progress, pace: Pace) -> str:
    """Bytes a second in words; empty where nothing can be told."""
    found = pace.rate()
    return f"{size(round(found))}/s" if in_bytes(progress) and found else ""


def times(pace: Pace, now: float) -> str:
    """What a stage took if it has ended, what it has left if that can be told, else its time."""
    if pace.done >= pace.total:
        return f"took {duration(pace.told - pace.begun)}"
    left = pace.seconds_left(now)
    return f"for {duration(now - pace.begun)}" if left is None else f"{duration(left)} left"


def already(progress: Progress) -> str:
    """What an earlier run has left of a stage, in words; empty if nothing."""
    if not progress.found:
        return ""
    return (
        f"{progress.stage}: {progress.found} of {progress.total} {progress.noun} are there already"
    )


def duration(seconds: float) -> str:
    """A time for people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
