"""`bench consolidate`. What it measures lives with consolidation."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli import output
from serve_app.cli.options import AsJson, parse_positive

if TYPE_CHECKING:
    from serve_app.bench.consolidate.footprint import Stage


def consolidate(
    models: Annotated[int, typer.Option(min=1, help="Checkpoints to consolidate.")] = 4,
    layers: Annotated[int, typer.Option(min=1, help="Layers of each.")] = 4,
    experts: Annotated[int, typer.Option(min=2, help="Experts of a layer.")] = 8,
    hidden: Annotated[int, typer.Option(min=16, help="Features of a token.")] = 512,
    intermediate: Annotated[int, typer.Option(min=8, help="Neurons of an expert.")] = 1024,
    expert_budget: Annotated[
        float, typer.Option(metavar="X", parser=parse_positive, help="Expert bytes over one's.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Seconds and peak memory of every stage of consolidating random checkpoints.

    Run at two sizes it shows what grows with the bytes read, and what does not. Ratios to reading
    are of processor seconds, which other processes disturb less.
    """
    from serve_app.bench.consolidate.footprint import FamilyShape, measure, write_checkpoints

    if hidden % 16:
        raise typer.BadParameter(f"{hidden} is not a multiple of 16", param_hint="--hidden")
    shape = FamilyShape(models, layers, experts, hidden, intermediate)
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as directory:
        paths = write_checkpoints(Path(directory), shape)
        files = [file for path in paths.values() for file in path.glob("*.safetensors")]
        total = sum(file.stat().st_size for file in files)
        stages = measure(paths, Path(directory) / "registry", expert_budget)
    facts = {
        "checkpoint_bytes": total,
        "model_bytes": total // models,
        "layer_bytes": shape.layer_bytes,
        "stages": [dataclasses.asdict(stage) for stage in stages],
    }
    if as_json:
        output.print_json(facts)
    else:
        _print(facts, stages)


def _print(facts: dict[str, Any], stages: list[Stage]) -> None:
    num_models = round(facts["checkpoint_bytes"] / facts["model_bytes"])
    grid = output.table(
        "stage", "seconds", "processor", "× reading", "peak", "× one layer", "file pages"
    )
    reading = stages[0].processor_s
    for stage in stages:
        grid.add_row(
            stage.name,
            f"{stage.wall_s:.2f}",
            f"{stage.processor_s:.2f}",
            f"{stage.processor_s / reading:.1f}",
            output.size(stage.anonymous_bytes),
            f"{stage.anonymous_bytes / facts['layer_bytes']:.2f}",
            output.size(stage.mapped_bytes),
        )
    out = output.out()
    out.print(
        f"{num_models} checkpoints of {output.size(facts['model_bytes'])}, "
        f"{output.size(facts['checkpoint_bytes'])} in all; one layer's experts of all models are "
        f"{output.size(facts['layer_bytes'])}"
    )
    out.print(grid)
