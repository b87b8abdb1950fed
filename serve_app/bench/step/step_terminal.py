"""Timed steps, for the terminal. Prints nothing."""

from collections.abc import Mapping
from typing import Any

from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Table, TerminalPart
from serve_app.bench.step.outside_table import outside_table
from serve_app.units import size

AXES = ("models", "sequences", "context", "places", "parts", "residuals")
NOTHING = "none"
"""No residuals, as `--residual` spells it."""
COLUMNS = ("step ms", "tokens/s", "floor ms", "of", "reached", "÷ one", "bytes")


def terminal(result: Result) -> list[TerminalPart]:
    """The rates, and a line for each point; an axis with one value has no column."""
    rates = result.facts["rates"]
    products = ", ".join(
        f"{name} {rate / 1e9:,.0f}" for name, rate in rates["matrix_ops_s"].items()
    )
    found: list[TerminalPart] = [
        f"copying {rates['copy_bytes_s'] / 1e9:,.1f} GB/s; matrix products, Gop/s: {products}"
    ]
    axes = [axis for axis in AXES if len({str(row[axis]) for row in result.rows}) > 1]
    for phase in result.settings["phases"]:
        rows = [row for row in result.rows if row["phase"] == phase]
        cells = [[*(_word(row[axis]) for axis in axes), *_cells(row)] for row in rows]
        found.append(Table(phase, [*axes, *COLUMNS], cells, left=0))
    if "outside" in result.facts:
        found.append(outside_table(result.facts["outside"]))
    if "cold" in result.facts:
        found.append(_loads(result.facts["cold"]))
    return found


def _loads(cold: Mapping[str, Any]) -> str:
    share = cold["load_bytes_s"] / cold["host_to_device_bytes_s"]
    return (
        f"cold backbones of {size(cold['backbone_bytes'])}: {share:.0%} of the rate of "
        f"copying from the host, {cold['host_to_device_bytes_s'] / 1e9:,.1f} GB/s; first token "
        f"{cold['cold_s'] * 1e3:.1f} ms, resident {cold['resident_s'] * 1e3:.1f} ms"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Times, the floor, and ratios of several models to one: time, then bytes."""
    over = [row.get(f"{what}_over_one_model") for what in ("time", "bytes")]
    return [
        f"{row['step_s'] * 1e3:.2f}",
        f"{row['tokens_s']:,.0f}",
        f"{row['floor_s'] * 1e3:.2f}",
        "ops" if row["limit"] == "operations" else row["limit"],
        f"{row['reached']:.0%}",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in over),
    ]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(value) or NOTHING
    return str(value)
