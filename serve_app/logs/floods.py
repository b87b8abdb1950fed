"""Keeps log lines of one kind from being too many: those that are left out are counted."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from serve_app.logs.about import FACTS, KIND

MOST = 20
EVERY_S = 10.0
"""So many lines of one kind are written in so long."""
_MOST_KINDS = 1000


@dataclass(slots=True)
class _Window:
    """Lines of one kind since `begun`."""

    begun: float
    num: int = 0
    num_left_out: int = 0


class Unflooded(logging.Handler):
    """Gives records to other handlers, of one kind so many in so long.

    A kind is what a record says it is (`about`), or its logger and words without their values. What
    was left out is said when the time is over.
    """

    def __init__(
        self,
        handlers: Sequence[logging.Handler],
        *,
        most: int = MOST,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__()
        self._handlers = handlers
        self._most = most
        self._every_s = every_s
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        kind: str | None = getattr(record, KIND, f"{record.name}: {record.msg}")
        if kind is None or self._takes(kind, record):
            self._pass(record)

    def _takes(self, kind: str, record: logging.LogRecord) -> bool:
        now = self._clock()
        window = self._windows.get(kind)
        if window is None or now - window.begun >= self._every_s:
            self._forget(now)
            window = self._windows[kind] = _Window(now)
        window.num += 1
        if window.num <= self._most:
            return True
        window.num_left_out += 1
        if window.num_left_out == 1:
            left_s = window.begun + self._every_s - now
            timer = threading.Timer(left_s, self._tell, (window, record))
            timer.daemon = True
            timer.start()
        return False

    def _tell(self, window: _Window, like: logging.LogRecord) -> None:
        """Says how many were left out."""
        with self.lock or threading.Lock():
            text = "%d more lines like this one were left out in %g s: %s"
            words = (window.num_left_out, self._every_s, like.msg)
            told = logging.LogRecord(like.name, like.levelno, "", 0, text, words, None)
            setattr(told, FACTS, {"left_out": window.num_left_out})
            self._pass(told)

    def _pass(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            handler.handle(record)

    def _forget(self, now: float) -> None:
        """Kinds that have been quiet, if there are many."""
        if len(self._windows) >= _MOST_KINDS:
            kept = {k: w for k, w in self._windows.items() if now - w.begun < self._every_s}
            self._windows = kept if len(kept) < _MOST_KINDS else {}
