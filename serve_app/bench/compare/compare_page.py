"""Plots and tables about the same requests through several ways of serving."""

from collections.abc import Mapping, Sequence
from typing import Any

from consolidation.report import drawing
from representation.decimals import plain
from serve_app.bench.compare import ratios
from serve_app.bench.compare.compare_terminal import asked_words, skipped_words
from serve_app.bench.load.load_page import draw_shares
from serve_app.bench.requests import waits
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Plot, Section, Table

Row = Mapping[str, Any]


def sections(result: Result) -> list[Section]:
    """What each arm is, its results, and the ratios between arms."""
    facts, arms = result.facts, result.rows
    asked = asked_words(facts, result.settings["duration_s"])
    left_out = "".join(f" {words[0].upper()}{words[1:]}." for words in skipped_words(facts))
    plots = [
        Plot(_turnarounds(arms), "Share of the requests that were answered by then."),
        Plot(_means(arms), "Mean turnaround and device memory of each arm."),
    ]
    counts = [
        [
            row["arm"],
            row["what"],
            str(row["all"]["lost"]),
            waits.rate(row["all"]),
            "–" if row["jain"] is None else f"{row['jain']:.3f}",
            f"{row['device_bytes'] / 2**20:,.0f}",
        ]
        for row in arms
    ]
    by_arm = {row["arm"]: row["all"] for row in arms}
    columns = ["arm", "", "lost", "answers, tokens/s", "Jain", "device, MiB"]
    tables = [
        Table("", columns, counts, left=2),
        waits.table("arm", by_arm),
    ]
    found = [
        Section(
            "The same requests through each arm", f"{asked}. {waits.WORDS}{left_out}", plots, tables
        )
    ]
    over = [ratios.table(f"Over {other}'s", "arm", own) for other, own in facts["ratios"].items()]
    if over:
        found.append(Section("Ratios", tables=over))
    return [*found, _clients(arms)]


def _turnarounds(arms: Sequence[Row]) -> str:
    with drawing.figure(8.4, 3.6) as drawn:
        axes = drawn.subplots()
        for number, (row, (colour, _)) in enumerate(
            zip(arms, drawing.looks(len(arms)), strict=True)
        ):
            draw_shares(axes, row["turnarounds_s"], row["arm"], colour)
            if number >= len(drawing.COLOURS):  # a colour repeats
                axes.lines[-1].set_linestyle("--")
        axes.set(xscale="log", xlabel="turnaround, s", ylabel="% of the requests", ylim=(0, 100))
        drawn.legend(loc="outside right upper")
        return drawing.svg(drawn, "turnaround by arm")


def _means(arms: Sequence[Row]) -> str:
    names = [row["arm"] for row in arms]
    spreads = [row["all"]["turnaround_s"] or {"mean": 0.0, "p99": 0.0} for row in arms]
    with drawing.figure(8.4, 0.9 + 0.3 * len(arms)) as drawn:
        left, right = drawn.subplots(1, 2, sharey=True)
        left.barh(names, [one["mean"] for one in spreads], color=drawing.BLUE, height=0.6)
        ends = [one["p99"] for one in spreads]
        left.plot(ends, names, "|", color=drawing.INK, markersize=12, markeredgewidth=1.5)
        left.set(xlabel="s; the line is the 99th percentile", title="Turnaround, mean")
        right.barh(
            names, [row["device_bytes"] / 2**20 for row in arms], color=drawing.ORANGE, height=0.6
        )
        right.set(xlabel="MiB", title="Device memory")
        left.invert_yaxis()
        for axes in (left, right):
            axes.grid(visible=False, axis="y")
        return drawing.svg(drawn, "mean turnaround and device memory by arm")


def _clients(arms: Sequence[Row]) -> Section:
    words = "Whether the client kept up, and what else an arm reports."
    rows = []
    for row in arms:
        own = [f"{name} {plain(value)}" for name, value in row["facts"].items()]
        rows.append([row["arm"], "; ".join([waits.client_words(row["client"]), *own])])
    rows += [[row["arm"], f"warning: {one}"] for row in arms for one in row["warnings"]]
    rows += [[row["arm"], f"lost: {one}"] for row in arms for one in row["errors"]]
    return Section("Clients", words, tables=[Table("", ["arm", ""], rows, left=2)])
