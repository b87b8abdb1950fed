"""Seconds and memory of consolidating, for the terminal. Prints nothing."""

from collections.abc import Mapping
from typing import Any

from serve_app.bench.result.sections import Table, TerminalPart
from serve_app.units import size

COLUMNS = ("stage", "seconds", "processor", "bytes/s", "× reading", "peak beyond the start")


def terminal(facts: Mapping[str, Any]) -> list[TerminalPart]:
    """The size of the checkpoints, and a line for each stage. facts: from `measured_run`."""
    total, stages = facts["checkpoint_bytes"], facts["stages"]
    reading = stages[0]["wall_s"]
    cells = [
        [
            stage["name"],
            f"{stage['wall_s']:.2f}",
            f"{stage['processor_s']:.2f}",
            size(round(total / stage["wall_s"])),
            f"{stage['wall_s'] / reading:.1f}",
            size(max(0, stage["memory_bytes"])),
        ]
        for stage in stages
    ]
    beside = "" if facts["device"] == "cpu" else f" and {facts['device']}"
    return [
        f"{facts['models']} checkpoints, {size(total)} in all, on {facts['cores']} cores{beside}; "
        f"starting and reading them once before took {facts['start_s']:.1f} s, which do not count",
        Table("", COLUMNS, cells),
        f"all stages: {facts['wall_s']:.1f} s, {size(round(facts['bytes_per_s']))}/s; "
        f"{facts['over_read']:.0f} × reading once here, "
        f"{facts['over_stated_read']:.0f} × reading once at 3 GB/s",
        f"peak: {size(facts['peak_bytes'])} of all processes together, of which "
        f"{size(facts['start_bytes'])} at the start",
    ]
