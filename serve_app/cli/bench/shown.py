"""Prints what a benchmark has to say: words, tables, and its troubles on stderr. Words nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve_app.bench.result.sections import Table, Trouble
from serve_app.cli import output
from serve_app.cli.progress import showing

if TYPE_CHECKING:
    from serve_app.bench.result.measured import OnProgress
    from serve_app.bench.result.sections import TerminalPart


def show(parts: Sequence[TerminalPart]) -> None:
    """Print the parts one below the other."""
    for part in parts:
        if isinstance(part, Trouble):
            output.err().print(part.words, markup=False, soft_wrap=True)
        elif isinstance(part, Table):
            grid = output.table(*part.columns, left=part.left, title=part.caption or None)
            for row in part.rows:
                grid.add_row(*row)
            output.out().print(grid)
        else:
            output.out().print(part, markup=False, soft_wrap=True)


@contextmanager
def stages() -> Iterator[OnProgress]:
    """Progress bars for as long as the block lasts, one for each stage of a benchmark."""
    from consolidation.run.executor import Progress

    with showing.progress() as bars:
        yield lambda stage, done, total, num_bytes=None: bars(
            Progress(stage, done, total, num_bytes=num_bytes)
        )
