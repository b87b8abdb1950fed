"""Options that several benchmarks share. Runs no command."""

from dataclasses import replace
from typing import Annotated

import typer

from serve_app.cli.parsing import parse_name, parse_registry
from serve_app.engine.config import EngineConfig

DEFAULT_SHAPE = "mixtral-115m"
"""The shape of the speed targets."""

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
    typer.Option(
        "--layers",
        min=1,
        metavar="N",
        show_default=False,
        help="Layers of the shape. Default: all.",
    ),
]
MaybeRegistry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="DIR",
        parser=parse_registry,
        show_default=False,
        help="Measure a release in this registry instead of a shape.",
    ),
]
MaybeFamily = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="F",
        parser=parse_name,
        show_default=False,
        help="Family of the release.",
    ),
]
MaybeRelease = Annotated[
    str | None,
    typer.Option(
        "--release",
        metavar="RELEASE",
        show_default=False,
        help="Id, beginning of an id, or channel. Default: stable, else the newest.",
    ),
]
Unmerged = Annotated[
    bool, typer.Option("--unmerged", help="Give each model of the shape its own slots.")
]


def on_its_device(engine: EngineConfig) -> EngineConfig:
    """The same configuration, with the real device in place of `auto`.

    Raises: ConfigError if CUDA is requested but not available.
    """
    from serve_app.engine.device.device import require_device, resolve_device

    require_device(engine.device)
    return replace(engine, device=resolve_device(engine.device))
