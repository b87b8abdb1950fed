"""The `bench` commands. What they measure lives with what is measured."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli import output

bench = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Measure on this machine."""


@bench.command()
def memory(
    models: Annotated[int, typer.Option(min=1, help="Checkpoints to consolidate.")] = 4,
    layers: Annotated[int, typer.Option(min=1, help="Layers of each.")] = 12,
    budget: Annotated[
        float, typer.Option("--expert-budget", help="Expert bytes over one model's.")
    ] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Peak memory of consolidating random checkpoints larger than what may be held."""
    from consolidation.footprint import Shape, measure, write_checkpoints

    shape = Shape(num_models=models, num_layers=layers)
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as directory:
        paths = write_checkpoints(Path(directory), shape)
        files = [file for path in paths.values() for file in path.glob("*.safetensors")]
        total = sum(file.stat().st_size for file in files)
        peaks = measure(paths, Path(directory) / "registry", budget)
    if json:
        output.print_json(
            {
                "checkpoint_bytes": total,
                "model_bytes": total // models,
                "layer_bytes": shape.layer_bytes,
                "peaks": [dataclasses.asdict(peak) for peak in peaks],
            }
        )
        return
    grid = output.table("stage", "peak", "of one layer, all models", "file pages")
    for peak in peaks:
        share = peak.anonymous / shape.layer_bytes
        grid.add_row(
            peak.stage,
            output.size(peak.anonymous),
            f"{share:.2f} ×",
            output.size(peak.mapped),
        )
    out = output.out()
    out.print(
        f"{models} checkpoints of {output.size(total // models)}, {output.size(total)} in all; "
        f"one layer's experts of all models are {output.size(shape.layer_bytes)}"
    )
    out.print(grid)
