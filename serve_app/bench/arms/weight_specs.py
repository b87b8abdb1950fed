"""Where a benchmark's weights come from, as values that can be sent to a process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.source import ReleaseSource


class SourceSpec(Protocol):
    """Says how to open a release; every process that opens it gets the same weights."""

    def open(self) -> ReleaseSource: ...


@dataclass(frozen=True, slots=True)
class RandomSpec:
    """A release of random weights: see `RandomRelease`.

    parts, residuals: formats of its slots, and of every expert's residuals.   merged: whether all
    models have the same slots.
    """

    config: Mapping[str, Any]
    num_models: int
    dtype: str
    device: str = "cpu"
    parts: str = "dense"
    residuals: tuple[str, ...] = ()
    seed: int = 0
    merged: bool = True

    def open(self) -> ReleaseSource:
        return RandomRelease(
            self.config,
            self.num_models,
            dtype=self.dtype,
            device=self.device,
            parts=self.parts,
            residuals=self.residuals,
            merged=self.merged,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class PublishedSpec:
    """A release in a registry."""

    registry: str
    family: str
    release: str

    def open(self) -> ReleaseSource:
        from consolidation.release import Registry, ReleaseReader

        reader = ReleaseReader(Registry(self.registry, self.family), self.release)
        return cast(ReleaseSource, reader)
