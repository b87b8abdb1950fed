"""`bench consolidate`: its options."""

from typing import Annotated

import typer

from serve_app.cli import output
from serve_app.cli.bench import release_choice
from serve_app.cli.bench.shown import show, stages
from serve_app.cli.bench.subject_options import NumLayers
from serve_app.cli.computing.computing_device import ComputingDevice, computing_device
from serve_app.cli.options import AsJson
from serve_app.cli.parsing import parse_positive


def consolidate(
    shape: Annotated[
        str, typer.Option("--shape", metavar="NAME", help="The shape of the checkpoints.")
    ] = "qwen3-moe",
    layers: NumLayers = None,
    models: Annotated[int, typer.Option(min=1, help="Number of checkpoints.")] = 2,
    expert_budget: Annotated[
        float,
        typer.Option(
            metavar="X",
            parser=parse_positive,
            help="Size of the pool, in units of one model's experts.",
        ),
    ] = 1.0,
    cores: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default=False,
            help="Tasks at once. 1: one process without Ray. Default: all cores.",
        ),
    ] = None,
    device: ComputingDevice = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure seconds and peak memory of each stage of consolidating random checkpoints.

    A base and fine-tunes of it, as `bench make-checkpoint` writes them.
    Run it at two sizes to see what grows with the bytes read.
    """
    import os

    computing = computing_device(device)
    from serve_app.bench.consolidate.consolidate_terminal import terminal
    from serve_app.bench.consolidate.consolidating import Subject, measured_run

    chosen = release_choice.random(shape, layers, dtype="bfloat16", device="cpu", merged=False)
    subject = Subject(chosen.config, models, computing)
    with stages() as on_progress:
        facts = measured_run(subject, expert_budget, cores or os.cpu_count() or 1, on_progress)
    facts = {**chosen.settings(), **facts}
    if as_json:
        output.print_json(facts)
    else:
        show(terminal(facts))
