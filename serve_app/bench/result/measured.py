"""A measured figure, and what else was found on the way. A value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class OnProgress(Protocol):
    """Told how far a stage is."""

    def __call__(
        self, stage: str, done: int, total: int, num_bytes: tuple[int, int, int] | None = None, /
    ) -> None:
        """num_bytes: done, in all, and found, where a stage can be told in bytes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The value of a bar, and its facts: what it was computed from."""

    value: float
    facts: Mapping[str, Any] = field(default_factory=dict)
