"""The bars, for the terminal. Prints nothing."""

from collections.abc import Mapping
from typing import Any

from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Table, TerminalPart


def terminal(result: Result) -> list[TerminalPart]:
    """Each bar and whether it is met, then why some could not be measured."""
    why = [f"{row['name']}: {row['why']}" for row in result.rows if "why" in row]
    table = Table("", ["bar", "value", "bar", "holds"], [cells(row) for row in result.rows])
    return [table, *why]


def cells(row: Mapping[str, Any]) -> list[str]:
    """Name, value, bar, and whether it is met."""
    return [
        row["name"],
        "–" if row["value"] is None else f"{row['value']:.3f}",
        f"{'≥' if row['at_least'] else '≤'} {row['bar']:g}",
        "yes" if row["holds"] else "no",
    ]
