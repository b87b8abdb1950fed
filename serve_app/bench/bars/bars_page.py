"""The bars as a table and a plot, and the curves behind the growth bar."""

from collections.abc import Mapping, Sequence
from typing import Any

from consolidation.report import drawing
from serve_app.bench.bars.bars_terminal import cells
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Plot, Section, Table

PARTS = {
    "outside products": ("outside_s", drawing.BLUE, "o"),
    "products": ("products_s", drawing.ORANGE, "s"),
}
"""The parts of a step's time: where to find them and how to draw them."""


def sections(result: Result) -> list[Section]:
    """Which bars are met, then the curves if they were measured."""
    failed = [f"{row['name']}: {row['why']}." for row in result.rows if "why" in row]
    measured = [row for row in result.rows if row["value"]]
    plots = []
    if measured:
        plots = [Plot(_held(measured), "Green: met. The line is the target; left is better.")]
    found = [Section("What holds", " ".join(failed), plots, [_table(result.rows)])]
    curves = result.facts.get("measures", {}).get("scaling", {}).get("curves")
    if curves:
        words = "Decode steps as one size grows. Dashed: growth in proportion to the first point."
        found.append(
            Section("Growth", words, [Plot(_curves(curves), "Medians of profiled steps.")])
        )
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    found = []
    for row in rows:
        name, *rest = cells(row)
        found.append([name, row["says"], *rest])
    return Table("", ["name", "measure", "value", "bar", "holds"], found, left=2)


def _held(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each value divided by its limit, or the limit by the value for a minimum."""
    names = [row["name"] for row in rows]
    parts = [row["value"] / row["bar"] for row in rows]
    over = [1 / part if row["at_least"] else part for row, part in zip(rows, parts, strict=True)]
    colours = [drawing.GREEN if row["holds"] else drawing.VERMILLION for row in rows]
    with drawing.figure(8.4, 0.9 + 0.3 * len(rows)) as drawn:
        axes = drawn.subplots()
        shown = axes.barh(names, over, color=colours, height=0.65)
        values = [f"{row['value']:.2f}" for row in rows]
        axes.bar_label(shown, values, label_type="center", color=drawing.EDGE, fontsize=8)
        axes.axvline(1.0, color=drawing.INK, linewidth=1.0)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="value ÷ target (target ÷ value for a minimum)", xlim=(0, None))
        return drawing.svg(drawn, "values relative to their targets")


def _curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    with drawing.figure(8.4, 3.2) as drawn:
        panels = drawn.subplots(1, len(curves), squeeze=False)[0]
        for axes, (name, spots) in zip(panels, curves.items(), strict=True):
            sizes = [spot["size"] for spot in spots]
            for label, (key, colour, marker) in PARTS.items():
                times = [1e3 * spot[key] for spot in spots]
                axes.plot(sizes, times, color=colour, marker=marker, label=label)
            first = 1e3 * spots[0]["outside_s"] / sizes[0]
            axes.plot(sizes, [first * size for size in sizes], "--", color=drawing.GREY)
            axes.set(xlabel=name, ylabel="ms", ylim=(0, None), title=f"Against {name}")
            axes.set_xticks(sizes)
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return drawing.svg(drawn, "step time against places and experts")
