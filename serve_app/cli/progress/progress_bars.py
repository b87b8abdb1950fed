"""Progress on a terminal: a bar for each stage, with its rate and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve_app.cli.output import err
from serve_app.cli.progress.pace import Pace, Paces, already, amount, rate, times

if TYPE_CHECKING:
    from rich.progress import TaskID

    from consolidation.run.executor import Progress


class Bars:
    """Call it with every `Progress`. The bars appear with the first stage."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        from rich import progress as bars
        from rich.text import Text

        class Times(bars.ProgressColumn):
            """The time that is left. Asked several times a second, so it runs down."""

            def render(self, task: bars.Task) -> Text:
                return Text(times(task.fields["pace"], time.monotonic()))

        columns = (
            bars.TextColumn("{task.description:<11}"),
            bars.BarColumn(bar_width=16),
            bars.TextColumn("{task.fields[amount]}"),
            bars.TextColumn("{task.fields[rate]}"),
            Times(),
        )
        self._stages: dict[str, TaskID] = {}
        self._paces = Paces()
        # What is printed on stdout meanwhile must arrive there.
        self._shown = bars.Progress(*columns, console=err(), redirect_stdout=False)

    def __call__(self, progress: Progress) -> None:
        pace, begins = self._paces.told(progress, time.monotonic())
        if begins:
            self._add(progress, pace)
        self._shown.update(
            self._stages[progress.stage],
            completed=pace.done,
            amount=amount(progress),
            rate=rate(progress, pace),
        )

    def _add(self, progress: Progress, pace: Pace) -> None:
        """A bar for a stage that begins, in place of the one of its last time."""
        self._shown.start()
        if progress.stage in self._stages:
            self._shown.remove_task(self._stages[progress.stage])
        self._stages[progress.stage] = self._shown.add_task(
            progress.stage, total=pace.total, amount="", rate="", pace=pace
        )
        if words := already(progress):
            self._shown.console.print(words, markup=False, soft_wrap=True)

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
