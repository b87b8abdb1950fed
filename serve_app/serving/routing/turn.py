"""Whose turn it is, among replicas of which one at a time may stage or drain. Knows no Ray."""

from collections.abc import Callable

HELD_S = 10.0
"""Who does not say for so long that it goes on has ended, or died."""


class Turn:
    """One at a time has it. Others ask again: there is no queue."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._holder: str | None = None
        self._until = 0.0

    def take(self, replica: str) -> bool:
        """Whether it has the turn, for `HELD_S` from now. To keep it, it calls this again."""
        now = self._clock()
        if self._holder not in (None, replica) and now < self._until:
            return False
        self._holder, self._until = replica, now + HELD_S
        return True

    def end(self, replica: str) -> None:
        """It needs the turn no longer. Nothing happens if it has not got it."""
        if self._holder == replica:
            self._holder = None
