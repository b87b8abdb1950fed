"""A measured figure, and what else was found on the way. A value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

OnProgress = Callable[[str, int, int], None]
"""(stage, done, total)"""


@dataclass(frozen=True, slots=True)
class Measured:
    """The value of a bar, and its facts: what it was computed from."""

    value: float
    facts: Mapping[str, Any] = field(default_factory=dict)
