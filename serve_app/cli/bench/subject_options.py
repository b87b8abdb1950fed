"""Options that several benchmarks share. Runs no command."""

from typing import Annotated

import typer

from serve_app.cli.options import parse_name, parse_registry
from serve_app.cli.serving import Device, Dtype

DEFAULT_SHAPE = "mixtral-115m"
"""The shape that the bars are stated for."""

ShapeName = Annotated[
    str | None,
    typer.Option(
        "--shape",
        metavar="NAME",
        show_default=False,
        help=f"Random weights of a published shape. Default: {DEFAULT_SHAPE}.",
    ),
]
NumLayers = Annotated[
    int | None,
    typer.Option("--layers", min=1, metavar="N", show_default=False, help="Layers of the shape."),
]
MaybeRegistry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="DIR",
        parser=parse_registry,
        show_default=False,
        help="Measure a release that is there, instead of a shape.",
    ),
]
MaybeFamily = Annotated[
    str | None,
    typer.Option(
        "--family", metavar="F", parser=parse_name, show_default=False, help="The release's family."
    ),
]
MaybeRelease = Annotated[
    str | None,
    typer.Option(
        "--release",
        metavar="RELEASE",
        show_default=False,
        help="Its id, the beginning of one, or a channel. Default: stable, or the newest.",
    ),
]
MaybeDevice = Annotated[
    Device | None,
    typer.Option(
        "--device", show_default=False, help="Default: cuda where there is one, else cpu."
    ),
]
ComputeDtype = Annotated[Dtype, typer.Option("--dtype", help="What to compute in.")]
Unmerged = Annotated[
    bool, typer.Option("--unmerged", help="Each of the shape's models has slots of its own.")
]


def choose_device(wanted: Device | None) -> str:
    """Where the engine runs.

    Raises:
        typer.BadParameter: CUDA is wanted, and there is none.
    """
    from serve_app.engine.device.device import default_device

    there = default_device()
    if wanted is Device.CUDA and there != Device.CUDA.value:
        raise typer.BadParameter("'cuda': there is no such device", param_hint="--device")
    return wanted.value if wanted else there
