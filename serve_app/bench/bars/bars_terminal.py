"""The bars, for the terminal. Prints nothing."""

from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Table, TerminalPart


def terminal(result: Result) -> list[TerminalPart]:
    """Each bar and whether it is met, then why some could not be measured."""
    cells = [
        [
            row["name"],
            "–" if row["value"] is None else f"{row['value']:.3f}",
            f"{'≥' if row['at_least'] else '≤'} {row['bar']:g}",
            "yes" if row["holds"] else "no",
        ]
        for row in result.rows
    ]
    why = [f"{row['name']}: {row['why']}" for row in result.rows if "why" in row]
    return [Table("", ["bar", "value", "bar", "holds"], cells), *why]
