"""What a committed step gave each sequence, as values. Not what clients receive."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Continued:
    """The sequence has one more token and continues."""

    id: str
    token: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The sequence has ended and holds nothing any more.

    `token` is its last one (the stop token itself for "stop"), or None if none was requested.
    """

    id: str
    token: int | None
    reason: Literal["stop", "length"]


SequenceEvent = Continued | Finished
