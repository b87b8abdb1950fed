"""How what requests waited for is shown on the terminal. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serve_app.bench.requests import waits
from serve_app.cli import output

if TYPE_CHECKING:
    from rich.table import Table


def waits_table(noun: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every measure of every row. found: by the row's name, as `outcomes.numbers` gives them."""
    grid = output.table("", noun, *waits.STATISTICS, left=2)
    for cells in waits.cells(found):
        grid.add_row(*cells)
    return grid


def print_warnings(warnings: list[str]) -> None:
    for words in warnings:
        output.err().print(f"warning: {words}", markup=False, soft_wrap=True)
