"""Seconds and memory of consolidating, for the terminal. Prints nothing."""

from collections.abc import Mapping
from typing import Any

from serve_app.bench.result.sections import Table, TerminalPart
from serve_app.units import size

COLUMNS = ("stage", "seconds", "processor", "× reading", "peak", "× one layer", "file pages")


def terminal(facts: Mapping[str, Any]) -> list[TerminalPart]:
    """The size of the checkpoints, and a line for each stage. facts: from `footprint`."""
    num_models = round(facts["checkpoint_bytes"] / facts["model_bytes"])
    stages, layer = facts["stages"], facts["layer_bytes"]
    reading = stages[0]["processor_s"]
    cells = [
        [
            stage["name"],
            f"{stage['wall_s']:.2f}",
            f"{stage['processor_s']:.2f}",
            f"{stage['processor_s'] / reading:.1f}",
            size(stage["anonymous_bytes"]),
            f"{stage['anonymous_bytes'] / layer:.2f}",
            size(stage["mapped_bytes"]),
        ]
        for stage in stages
    ]
    words = (
        f"{num_models} checkpoints of {size(facts['model_bytes'])}, "
        f"{size(facts['checkpoint_bytes'])} in all; one layer's experts of all models are "
        f"{size(layer)}"
    )
    return [words, Table("", COLUMNS, cells)]
