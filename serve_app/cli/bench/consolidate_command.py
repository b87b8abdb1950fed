"""`bench consolidate`: what is asked for."""

from typing import Annotated

import typer

from serve_app.cli import output
from serve_app.cli.bench.shown import show
from serve_app.cli.options import AsJson
from serve_app.cli.parsing import parse_positive


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
    from serve_app.bench.consolidate.footprint import FamilyShape, footprint
    from serve_app.bench.consolidate.footprint_terminal import terminal

    if hidden % 16:
        raise typer.BadParameter(f"{hidden} is not a multiple of 16", param_hint="--hidden")
    facts = footprint(FamilyShape(models, layers, experts, hidden, intermediate), expert_budget)
    if as_json:
        output.print_json(facts)
    else:
        show(terminal(facts))
