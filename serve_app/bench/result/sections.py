"""What a page about a benchmark and the terminal show. Values; prints and draws nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as shown. The first `left` columns hold words, the others numbers.

    strong: indices of rows to highlight.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture as an `<svg>` element, and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, then words, plots and tables."""

    heading: str
    words: str = ""
    plots: Sequence[Plot] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is to be doubted, or was lost. It is said beside the result."""

    words: str


TerminalPart = str | Table | Trouble
"""What the terminal shows, one below the other; words may be empty."""
