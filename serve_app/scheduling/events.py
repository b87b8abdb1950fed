"""What a committed step gave each sequence, as values. Not what clients receive."""

from typing import Literal, NamedTuple


class Continued(NamedTuple):
    """The sequence has one more token and continues."""

    id: str
    token: int


class Finished(NamedTuple):
    """The sequence has ended and holds nothing any more.

    `token` is its last one (the stop token itself for "stop"), or None if none was requested.
    "complete": nothing may follow, as whoever has committed it knows.
    """

    id: str
    token: int | None
    reason: Literal["stop", "complete", "length"]


SequenceEvent = Continued | Finished
