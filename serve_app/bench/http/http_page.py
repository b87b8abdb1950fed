"""What a streamed token costs: a plot and a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from consolidation.report import drawing
from serve_app.bench.http.http_terminal import parts, table
from serve_app.bench.http.processor_time import CLIENT, ENGINE
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Plot, Section

WORDS = "Processor time for each streamed token, without what the process takes when idle."


def sections(result: Result) -> list[Section]:
    """One section: the cost of a token outside the engine, by process, then all of it."""
    plot = Plot(_outside(result.rows), "All but the engine and the client, µs for each token.")
    return [Section("Cost of a streamed token", WORDS, [plot], [table(result)])]


def _outside(rows: Sequence[Mapping[str, Any]]) -> str:
    """A bar for each number of streams, divided by process."""
    names = [f"{row['streams']} streams" for row in rows]
    shown = [part for part in parts(rows) if part not in (ENGINE, CLIENT)]
    with drawing.figure(8.4, 0.9 + 0.5 * len(rows)) as drawn:
        axes = drawn.subplots()
        left = [0.0] * len(rows)
        for part, (colour, _) in zip(shown, drawing.looks(len(shown)), strict=True):
            us = [row["us_per_token"].get(part, 0.0) for row in rows]
            axes.barh(names, us, left=left, color=colour, height=0.6, label=part)
            left = [sum(pair) for pair in zip(left, us, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="µs for each token", xlim=(0, None))
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        return drawing.svg(drawn, "processor time for each token by process")
