"""What tenants do to each other, for the terminal. Prints nothing."""

from serve_app.bench.bars.bars_terminal import cells
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Table, TerminalPart


def terminal(result: Result) -> list[TerminalPart]:
    """Each row with its bar and whether it is met, what it says, and why one was not measured."""
    said = [f"{row['name']}: {row['says']}" for row in result.rows]
    why = [f"{row['name']}: {row['why']}" for row in result.rows if "why" in row]
    table = Table("", ["row", "value", "bar", "holds"], [cells(row) for row in result.rows])
    return [table, *said, *why]
