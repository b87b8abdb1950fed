"""Backbones that could not be loaded, and when to look at their files again. Reads none itself.

Whoever asks for a model of one is refused at once. The files are checked in the background after
growing pauses, and the outage ends when they are right. The state is what others call an open
circuit breaker.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Outage:
    """since, retry_at: on the engine's clock, in seconds.   attempts: that have failed.

    is_checked: whether its files are being looked at now.
    """

    reason: str
    since: float
    attempts: int
    retry_at: float
    is_checked: bool = False


class Outages:
    """By backbone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[str, Outage] = {}

    def of(self, backbone: str) -> Outage | None:
        """Why it cannot be had; None if nothing is known against it."""
        return self._found.get(backbone)

    def wait_s(self, backbone: str) -> float:
        """Seconds until its files are looked at again; 0 without an outage."""
        found = self._found.get(backbone)
        return 0.0 if found is None else max(0.0, found.retry_at - self._clock())

    def failed(self, backbone: str, reason: str) -> None:
        """It could not be loaded, or its files are still wrong."""
        now, before = self._clock(), self._found.get(backbone)
        attempts = 1 if before is None else before.attempts + 1
        pause = min(FIRST_PAUSE_S * 2.0 ** (attempts - 1), LONGEST_PAUSE_S)
        since = now if before is None else before.since
        self._found[backbone] = Outage(reason, since, attempts, now + pause)

    def ended(self, backbone: str) -> None:
        """It can be had."""
        self._found.pop(backbone, None)

    def take_due(self) -> list[str]:
        """Those whose files are to be looked at now."""
        if not self._found:
            return []
        now = self._clock()
        due = [b for b, o in self._found.items() if not o.is_checked and o.retry_at <= now]
        for backbone in due:
            self._found[backbone] = replace(self._found[backbone], is_checked=True)
        return due

    def keep(self, needed: Collection[str]) -> None:
        """Forget those of no release."""
        self._found = {b: outage for b, outage in self._found.items() if b in needed}

    def all(self) -> dict[str, Outage]:
        """By backbone."""
        return dict(self._found)
