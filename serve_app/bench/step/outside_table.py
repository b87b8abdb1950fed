"""What steps cost outside the forward pass, as a table for the terminal and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.bench.result.sections import Table
from serve_app.bench.step.turns import STAGES

COLUMNS = ("sampling", "sequences", *STAGES, "outside", "forward")
CAPTION = "outside the forward, processor ms"


def outside_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """rows: of `measure_outside`."""
    spent = (*STAGES, "outside", "forward")
    cells = [
        [
            row["sampling"],
            str(row["sequences"]),
            *(f"{row[f'{name}_s'] * 1e3:.2f}" for name in spent),
        ]
        for row in rows
    ]
    return Table(CAPTION, COLUMNS, cells)
