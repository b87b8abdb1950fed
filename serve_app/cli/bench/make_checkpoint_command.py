"""`bench make-checkpoint`: its options."""

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli import output
from serve_app.cli.bench import release_choice
from serve_app.cli.bench.shown import stages
from serve_app.cli.bench.subject_options import NumLayers, ShapeName
from serve_app.cli.errors import WrongUse


def make_checkpoint(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="What to make.")],
    shape: ShapeName = None,
    layers: NumLayers = None,
    from_base: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="BASE",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Make a fine-tune of this checkpoint, with half of its experts changed.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
) -> None:
    """Write a checkpoint with random weights in a published shape, in bfloat16.

    With --from, a fine-tune of one that this command has written: half of the
    experts of every layer have a difference of full rank, 0.0003 for each weight.
    Holds one tensor in memory at a time. Has a tokenizer and a chat template.
    """
    from serve_app.bench.weights.random_checkpoint import write_base, write_tuned

    if from_base is not None and (shape, layers) != (None, None):
        raise WrongUse("--from gives the shape and its layers: leave out --shape and --layers")
    with stages() as on_progress:
        if from_base is not None:
            write_tuned(directory, from_base, seed, on_progress)
        else:
            chosen = release_choice.random(
                shape, layers, dtype="bfloat16", device="cpu", merged=False
            )
            write_base(directory, chosen.config, seed, on_progress)
    output.out().print(f"made {directory}", markup=False, soft_wrap=True)
