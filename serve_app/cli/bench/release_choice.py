"""The release that a benchmark runs on: random weights of a shape, or one in a registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from serve_app.cli.bench.subject_options import DEFAULT_SHAPE
from serve_app.cli.errors import WrongUse

if TYPE_CHECKING:
    from serve_app.engine.source import ReleaseSource


@dataclass(frozen=True, slots=True)
class Published:
    """A release in a registry. release: as `resolve` takes it."""

    registry: str
    family: str
    release: str | None

    def open(
        self, num_models: int, parts: str = "dense", residuals: tuple[str, ...] = ()
    ) -> ReleaseSource:
        from consolidation.release import ReleaseReader
        from serve_app.cli.releases import open_registry, resolve

        opened = open_registry(self.registry, self.family)
        return ReleaseReader(opened, resolve(opened, self.release))

    def settings(self) -> dict[str, Any]:
        return {"family": self.family, "release": self.open(0).id}


@dataclass(frozen=True, slots=True)
class Random:
    """Random weights of a named shape."""

    shape: str
    config: dict[str, Any]
    dtype: str
    device: str
    merged: bool

    def open(
        self, num_models: int, parts: str = "dense", residuals: tuple[str, ...] = ()
    ) -> ReleaseSource:
        from serve_app.bench.weights.random_release import RandomRelease

        return RandomRelease(
            self.config,
            num_models,
            dtype=self.dtype,
            device=self.device,
            parts=parts,
            residuals=residuals,
            merged=self.merged,
        )

    def settings(self) -> dict[str, Any]:
        layers = self.config["num_hidden_layers"]
        return {"shape": self.shape, "layers": layers, "merged": self.merged}


def published(
    registry: str | None, family: str | None, release: str | None, **of_shapes: object
) -> Published | None:
    """The named release, or None. of_shapes: options that only shapes have.

    Raises:
        WrongUse: its name is incomplete, or an option for shapes is given too.
    """
    if registry is None and family is None and release is None:
        return None
    if registry is None or family is None:
        missing = "--registry" if registry is None else "--family"
        raise WrongUse(f"to measure a release, give {missing} too")
    for name, given in of_shapes.items():
        if given:
            raise WrongUse(f"--{name} is only for a shape, not for a published release")
    return Published(registry, family, release)


def random(
    shape: str | None, layers: int | None, *, dtype: str, device: str, merged: bool
) -> Random:
    """Random weights of a shape, or of the default one, in bfloat16 unless another is given.

    Raises:
        typer.BadParameter: there is no such shape, or it has fewer layers.
    """
    from serve_app.bench.weights.shapes import SHAPES

    name = shape or DEFAULT_SHAPE
    if name not in SHAPES:
        raise typer.BadParameter(
            f"{name!r} is not one of {', '.join(SHAPES)}", param_hint="--shape"
        )
    if layers is not None and layers > SHAPES[name].num_layers:
        raise typer.BadParameter(
            f"{layers}: {name} has only {SHAPES[name].num_layers}", param_hint="--layers"
        )
    made_in = "bfloat16" if dtype == "auto" else dtype
    return Random(name, SHAPES[name].config(layers), made_in, device, merged)
