"""What became of each request, and how many of each kind there were. Asks nothing."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a request ended."""

    RIGHT = "right"
    """The whole answer, token by token that of its release's reference."""
    WRONG = "wrong"
    """Another answer, or the beginning of another one."""
    REFUSED = "refused"
    """An OpenAI error with its status, or a connection that could not be opened."""
    ENDED = "ended"
    """A stream that began and ended with an error event of OpenAI's form."""
    CUT = "cut"
    """The connection broke: the client sees that, but is not told why."""
    MALFORMED = "malformed"
    """An error without OpenAI's body, or one without Retry-After that needs it."""
    LOST = "lost"
    """The stream ended as if all were well, and the answer was not complete."""
    HUNG = "hung"
    """Nothing more came before the client's timeout."""


NEVER = (Kind.WRONG, Kind.MALFORMED, Kind.LOST, Kind.HUNG)
"""What no fault excuses."""
TOUCHED = (Kind.REFUSED, Kind.ENDED, Kind.CUT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """begun, ended: on the monotonic clock, in seconds.   said: the code or reason of an error."""

    kind: Kind
    model: str
    begun: float
    ended: float
    said: str = ""
    release: str | None = None


class Ledger:
    """Outcomes in the order in which they came; any thread may add and read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        with self._lock:
            self._outcomes.append(outcome)

    def since(self, moment: float) -> list[Outcome]:
        """Those that ended at that time or later."""
        with self._lock:
            return [one for one in self._outcomes if one.ended >= moment]


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many there are of each kind, zeros too."""
    found = Counter(one.kind for one in outcomes)
    return {kind.value: found[kind] for kind in Kind}


def reasons(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each error was seen, without the right ones; the most frequent first."""
    found = Counter(f"{one.kind}: {one.said}" for one in outcomes if one.kind != Kind.RIGHT)
    return dict(found.most_common())
