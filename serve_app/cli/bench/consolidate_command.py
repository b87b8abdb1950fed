"""`bench consolidate`: its options."""

from typing import Annotated

import typer

from serve_app.cli import output
from serve_app.cli.bench.shown import show
from serve_app.cli.options import AsJson
from serve_app.cli.parsing import parse_positive


def consolidate(
    models: Annotated[int, typer.Option(min=1, help="Number of checkpoints.")] = 4,
    layers: Annotated[int, typer.Option(min=1, help="Layers per checkpoint.")] = 4,
    experts: Annotated[int, typer.Option(min=2, help="Experts per layer.")] = 8,
    hidden: Annotated[int, typer.Option(min=16, help="Hidden size.")] = 512,
    intermediate: Annotated[int, typer.Option(min=8, help="Neurons per expert.")] = 1024,
    expert_budget: Annotated[
        float,
        typer.Option(
            metavar="X",
            parser=parse_positive,
            help="Size of the pool, in units of one model's experts.",
        ),
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Measure seconds and peak memory of each stage of consolidating random checkpoints.

    Run it at two sizes to see what grows with the bytes read.
    Ratios to reading use processor seconds, which other processes disturb less.
    """
    from serve_app.bench.consolidate.footprint import FamilyShape, footprint
    from serve_app.bench.consolidate.footprint_terminal import terminal

    if hidden % 16:
        raise typer.BadParameter(f"{hidden} is not a multiple of 16", param_hint="--hidden")
    facts = footprint(FamilyShape(models, layers, experts, hidden, intermediate), expert_budget)
    if as_json:
        output.print_json(facts)
    else:
        show(terminal(facts))
