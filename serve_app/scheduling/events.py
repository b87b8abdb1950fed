"""What a committed step brought each sequence, as values. Not what clients are sent."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Continued:
    """The sequence has one token more and goes on."""

    id: str
    token: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The sequence has ended and holds nothing any more.

    `token` is its last one (the stop token itself for "stop"), or None when none was asked for.
    """

    id: str
    token: int | None
    reason: Literal["stop", "length"]


SequenceEvent = Continued | Finished
