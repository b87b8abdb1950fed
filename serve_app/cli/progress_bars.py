"""Progress on stderr: a bar for each stage, with its rate and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.cli.output import err
from serve_app.units import size

if TYPE_CHECKING:
    from rich.progress import TaskID

    from consolidation.run.executor import Progress


@dataclass(slots=True)
class Pace:
    """How fast a stage goes. Times are of one clock, in seconds; amounts are tasks or bytes.

    begun: when it began.   told: when `done` was told last.   found: what was done before it began.
    """

    begun: float
    found: int
    total: int
    done: int
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


class Bars:
    """Call it with every `Progress`. The bars appear with the first stage."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        from rich import progress as bars
        from rich.text import Text

        class Left(bars.ProgressColumn):
            """The time that is left. Asked several times a second, so it runs down."""

            def render(self, task: bars.Task) -> Text:
                left = None if task.finished else task.fields["pace"].seconds_left(time.monotonic())
                return Text("" if left is None else f"{duration(left)} left")

        columns = (
            bars.TextColumn("{task.description:<10}"),
            bars.BarColumn(bar_width=24),
            bars.TextColumn("{task.fields[amount]}"),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeElapsedColumn(),
            Left(),
        )
        self._stages: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}
        # What is printed on stdout meanwhile must arrive there.
        self._shown = bars.Progress(*columns, console=err(), redirect_stdout=False)

    def __call__(self, now: Progress) -> None:
        in_bytes = now.num_bytes is not None and now.num_bytes[1] > 0
        done, total, found = (in_bytes and now.num_bytes) or (now.done, now.total, now.found)
        pace = self._paces.get(now.stage)
        if pace is None or pace.total != total or pace.done > done:
            pace = self._add(now, done, total, found)
        pace.done, pace.told = done, time.monotonic()
        rate = pace.rate()
        self._shown.update(
            self._stages[now.stage],
            completed=done,
            amount=f"{size(done)} of {size(total)}" if in_bytes else f"{done}/{total}",
            rate=f"{size(round(rate))}/s" if in_bytes and rate else "",
        )

    def _add(self, now: Progress, done: int, total: int, found: int) -> Pace:
        """A bar for a stage that begins, in place of the one of its last time."""
        self._shown.start()
        if now.stage in self._stages:
            self._shown.remove_task(self._stages[now.stage])
        at = time.monotonic()
        pace = self._paces[now.stage] = Pace(at, found, total, done, at)
        self._stages[now.stage] = self._shown.add_task(
            now.stage, total=total, amount="", rate="", pace=pace
        )
        if now.found:
            words = f"{now.stage}: {now.found} of {now.total} {now.noun} are there already"
            self._shown.console.print(words, markup=False, soft_wrap=True)
        return pace

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Free the terminal for other output; later stages get bars below it."""
        self.end()
        yield
        self._begin()

    def end(self) -> None:
        """Stop, and leave the bars on the screen."""
        if self._stages:
            self._shown.stop()


@contextmanager
def progress() -> Iterator[Bars]:
    """Bars until the end of the block."""
    shown = Bars()
    try:
        yield shown
    finally:
        shown.end()


def duration(seconds: float) -> str:
    """A time for people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
