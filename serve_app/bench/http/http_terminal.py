"""What a streamed token costs, for the terminal. Prints nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.bench.http.processor_time import CLIENT, ENGINE, INGRESS, TEXT
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Table, TerminalPart

FIRST = (ENGINE, TEXT, INGRESS)
"""The parts that are shown first, in this order; the client is last."""


def terminal(result: Result) -> list[TerminalPart]:
    """The costs by process, and what the totals leave out."""
    return [
        table(result),
        "Processor time for each streamed token, in µs, without what the process takes when idle.",
    ]


def table(result: Result) -> Table:
    """A row for each part of the endpoint, a column for each number of streams."""
    idle = result.facts["idle_ms_per_s"]
    rows = [
        [
            part,
            *(f"{row['us_per_token'].get(part, 0.0):.1f}" for row in result.rows),
            f"{idle.get(part, 0.0):.1f}",
        ]
        for part in parts(result.rows)
    ]
    outside = [f"{row['outside_us_per_token']:.1f}" for row in result.rows]
    rows.append(["all but engine and client", *outside, ""])
    rows.append(["tokens/s", *(f"{row['tokens_per_s']:.1f}" for row in result.rows), ""])
    columns = ["process", *(f"{row['streams']} streams" for row in result.rows)]
    strong = frozenset({len(rows) - 2})
    return Table("", [*columns, "idle, ms a second"], rows, strong=strong)


def parts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every part that a row names: engine and ingress first, the client last."""
    named = dict.fromkeys(part for row in rows for part in row["us_per_token"])
    first = [part for part in FIRST if part in named]
    rest = sorted(part for part in named if part not in (*FIRST, CLIENT))
    return [*first, *rest, *([CLIENT] if CLIENT in named else [])]
