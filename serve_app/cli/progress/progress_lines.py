"""Progress where stderr is no terminal: a line when a stage begins and ends, and some between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve_app.cli.output import err
from serve_app.cli.progress.pace import Paces, already, amount, rate, times

if TYPE_CHECKING:
    from consolidation.run.executor import Progress

EVERY_S = 30.0
"""Between two lines of one stage there is at least so much time."""


class Lines:
    """Call it with every `Progress`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paces = Paces()
        self._said = 0.0

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        pace, begins = self._paces.told(progress, now)
        if begins and (words := already(progress)):
            self._say(words)
        ends = progress.done == progress.total
        if ends and progress.found == progress.total:
            return
        if begins or ends or now - self._said >= EVERY_S:
            self._said = now
            facts = [amount(progress), rate(progress, pace), "" if begins else times(pace, now)]
            self._say(f"{progress.stage}: {', '.join(filter(None, facts))}")

    def _say(self, words: str) -> None:
        err().print(words, markup=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Lines leave room for other output as they are."""
        yield
