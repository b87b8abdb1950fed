"""Plots and tables about timed steps: by models, against the floor, and bytes by kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from consolidation.report import drawing
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Plot, Section, Table
from serve_app.bench.step.outside_table import outside_table

Row = Mapping[str, Any]
AXES = ("sequences", "context", "places", "parts", "residuals")
BYTES = {
    "pool": ("pool_bytes", drawing.BLUE),
    "backbones": ("backbone_bytes", drawing.ORANGE),
    "keys and values": ("kv_bytes", drawing.GREEN),
    "states": ("state_bytes", drawing.PURPLE),
    "logits": ("logits_bytes", drawing.GREY),
}


def sections(result: Result) -> list[Section]:
    """A section for each phase, then the rates of the device."""
    found = []
    for phase in ("decode", "prefill"):
        rows = [row for row in result.rows if row["phase"] == phase]
        if rows:
            found.append(_phase(phase, rows))
    if "outside" in result.facts:
        found.append(_outside(result.facts["outside"]))
    if "cold" in result.facts:
        found.append(_cold(result.facts["cold"]))
    return [*found, _rates(result.facts["rates"])]


def _phase(phase: str, rows: Sequence[Row]) -> Section:
    words = {
        "decode": "One more token for every sequence, in one step of all models.",
        "prefill": "Whole prompts, computed in one step.",
    }
    plots = [
        Plot(_times(phase, rows), "Points: median of the steps. Dashed: the floor of the same."),
        Plot(_bytes(phase, rows), "Bytes that must move in a step, by kind."),
    ]
    return Section(phase.capitalize(), words[phase], plots, [_table(rows)])


def _times(phase: str, rows: Sequence[Row]) -> str:
    """Step time against models, and how much of the floor is reached."""
    series = _series(rows)
    with drawing.figure(8.4, 3.3) as drawn:
        left, right = drawn.subplots(1, 2)
        for (name, points), (colour, marker) in zip(
            series.items(), drawing.looks(len(series)), strict=True
        ):
            models = [point["models"] for point in points]
            look = {"color": colour, "marker": marker, "markeredgecolor": drawing.EDGE}
            left.plot(models, [1e3 * p["step_s"] for p in points], label=name, **look)
            left.plot(models, [1e3 * p["floor_s"] for p in points], "--", color=colour)
            right.plot(models, [100 * p["reached"] for p in points], **look)
        left.set(xlabel="models in the step", ylabel="ms", ylim=(0, None), title="Step time")
        right.set(
            xlabel="models in the step",
            ylabel="% of the floor",
            ylim=(0, None),
            title="How close to the floor",
        )
        for axes in (left, right):
            axes.set_xticks(sorted({row["models"] for row in rows}))
        if len(series) > 1:
            drawn.legend(loc="outside lower center", ncols=min(3, len(series)))
        return drawing.svg(drawn, f"{phase}: step time against models")


def _bytes(phase: str, rows: Sequence[Row]) -> str:
    names = [_point(row, rows) for row in rows]
    with drawing.figure(8.4, 0.8 + 0.24 * len(rows)) as drawn:
        axes = drawn.subplots()
        left = [0.0] * len(rows)
        for name, (key, colour) in BYTES.items():
            widths = [row[key] / 1e6 for row in rows]
            axes.barh(names, widths, left=left, color=colour, label=name, height=0.7)
            left = [so_far + width for so_far, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="MB", title="Bytes that must move")
        drawn.legend(loc="outside lower center", ncols=len(BYTES))
        return drawing.svg(drawn, f"{phase}: bytes of a step")


def _series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Points that differ only in the number of models, by what they have in common."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_name(row, rows, AXES), []).append(row)
    return found


def _point(row: Row, rows: Sequence[Row]) -> str:
    return _name(row, rows, ("models", *AXES))


def _name(row: Row, rows: Sequence[Row], axes: Sequence[str]) -> str:
    """What distinguishes a row from others: the axes with several values."""
    said = []
    for axis in axes:
        if len({str(other[axis]) for other in rows}) > 1:
            value = row[axis]
            if axis == "residuals":
                said.append("+".join(value) or "no residuals")
            else:
                said.append(value if axis == "parts" else _counted(value, axis))
    return ", ".join(said) or "all points"


def _counted(number: int, axis: str) -> str:
    """`1 model`, `4 models`, `64 context`: names of axes in the singular for 1."""
    return f"{number} {axis.removesuffix('s') if number == 1 else axis}"


def _table(rows: Sequence[Row]) -> Table:
    columns = ["point", "step ms", "tokens/s", "MB", "Gop", "floor ms", "limit", "reached"]
    columns += ["time ÷ one model", "bytes ÷ one model"]
    cells = []
    for row in rows:
        over = [row.get(f"{what}_over_one_model") for what in ("time", "bytes")]
        cells.append(
            [
                _point(row, rows),
                f"{row['step_s'] * 1e3:.2f}",
                f"{row['tokens_s']:,.0f}",
                f"{row['bytes'] / 1e6:,.1f}",
                f"{row['operations'] / 1e9:,.2f}",
                f"{row['floor_s'] * 1e3:.2f}",
                row["limit"],
                f"{row['reached']:.0%}",
                *("" if ratio is None else f"{ratio:.2f}" for ratio in over),
            ]
        )
    return Table("", columns, cells)


def _outside(rows: Sequence[Row]) -> Section:
    words = (
        "Decode steps in a running engine loop: processor time of its thread, in which the "
        "forward pass does not run. Medians."
    )
    return Section("Outside the forward", words, tables=[outside_table(rows)])


def _cold(cold: Mapping[str, Any]) -> Section:
    share = cold["load_bytes_s"] / cold["host_to_device_bytes_s"]
    rows = [
        ["a backbone", f"{cold['backbone_bytes'] / 1e6:,.1f} MB"],
        ["first token, cold", f"{cold['cold_s'] * 1e3:.1f} ms"],
        ["first token, resident", f"{cold['resident_s'] * 1e3:.1f} ms"],
        ["loading", f"{cold['load_bytes_s'] / 1e9:,.1f} GB/s"],
        ["one copy from the host", f"{cold['host_to_device_bytes_s'] / 1e9:,.1f} GB/s"],
        ["loading ÷ that copy", f"{share:.0%}"],
    ]
    words = "With fewer places than models, on an engine that does nothing else. Medians."
    return Section("Cold backbones", words, tables=[Table("", ["", "measured"], rows)])


def _rates(rates: Mapping[str, Any]) -> Section:
    rows = [["copying, bytes read and written", f"{rates['copy_bytes_s'] / 1e9:,.1f} GB/s"]]
    rows += [
        [f"matrix products in {name}", f"{rate / 1e9:,.0f} Gop/s"]
        for name, rate in rates["matrix_ops_s"].items()
    ]
    words = (
        "Measured in this run; the best of several. A floor is bytes ÷ the rate of copying or "
        "operations ÷ the best rate of products, whichever is more."
    )
    return Section("What the device reaches", words, tables=[Table("", ["", "rate"], rows)])
