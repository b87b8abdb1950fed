"""Options that several benchmarks share. Runs no command."""

from dataclasses import replace
from typing import Annotated

import typer

from serve_app.cli.parsing import parse_name, parse_registry
from serve_app.engine.config import EngineConfig

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
Unmerged = Annotated[
    bool, typer.Option("--unmerged", help="Each of the shape's models has slots of its own.")
]


def on_its_device(engine: EngineConfig) -> EngineConfig:
    """With the device that it stands for, in place of `auto`.

    Raises: ConfigError where CUDA is wanted, and there is none.
    """
    from serve_app.engine.device.device import require_device, resolve_device

    require_device(engine.device)
    return replace(engine, device=resolve_device(engine.device))
