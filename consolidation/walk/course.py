"""How far a task is that takes tokens through models. Runs nothing.

Work is counted in tokens that go through a whole model.
"""

from collections.abc import Callable

FILLING = 32
"""Reading all layers of a model takes about as long as so many tokens take to go through it."""


class Course:
    """Adds up work, and tells which share of a task's is done. Not for several threads at a time.

    tell: gets the share, from 0 to 1.   work: all that the task will do, or the most it may do.
    """

    def __init__(self, tell: Callable[[float], None], work: float) -> None:
        self._tell = tell
        self._work = work
        self._done = 0.0

    def passed(self, work: float) -> None:
        """So much more is done."""
        self._done += work
        self._tell(min(1.0, self._done / self._work))
