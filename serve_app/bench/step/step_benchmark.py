"""All of `bench step`: checks the request, then measures rates and steps. Shows nothing."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from serve_app.bench.result.environment import environment
from serve_app.bench.result.measured import OnProgress
from serve_app.bench.result.result import Result
from serve_app.bench.step import rates
from serve_app.bench.step.cold import Cold, cold_over_resident_ttft
from serve_app.bench.step.grid import Grid, Variant, require_places
from serve_app.bench.step.outside import measure_outside, outside_points
from serve_app.bench.step.timing import Conditions, dtype_of, limit_of, measure
from serve_app.engine.source import ReleaseSource
from serve_app.errors import ConfigError


class MeasuredRelease(Protocol):
    """What is measured."""

    def open(
        self, num_models: int, parts: str = "dense", residuals: tuple[str, ...] = ()
    ) -> ReleaseSource:
        """A release of it. A published one ignores the arguments."""
        ...

    def settings(self) -> dict[str, Any]:
        """What it is, for the record."""
        ...


def measure_steps(
    subject: MeasuredRelease,
    grid: Grid,
    rooms: Sequence[int] | None,
    formats: Sequence[tuple[str, tuple[str, ...]]],
    conditions: Conditions,
    *,
    cold: bool,
    outside: bool,
    on_progress: OnProgress,
) -> Result:
    """rooms: places for backbones; None: as many as models in the largest step.

    formats: of slots, and of residuals, of each variant.   cold: whether backbones are loaded too.
    outside: whether what steps cost outside the forward pass is measured too.
    Raises: ConfigError, before anything is built, for what cannot be measured.
    """
    rooms = rooms or [max(grid.models)]
    num_models = max(*rooms, *grid.models)
    source = subject.open(num_models)
    limit = limit_of(source, conditions)
    points = grid.points(limit)
    require_places(rooms, grid.models, limit.models)
    if cold and limit.models < 2:
        raise ConfigError("--cold needs at least two models")
    beside = outside_points(grid, limit) if outside else []
    variants = [Variant(number, *held) for number, held in itertools.product(rooms, formats)]
    here = environment(conditions.engine.device)
    total = len(variants) * len(points)
    on_progress("rates", 0, 1)
    reached = rates.measure_rates(conditions.engine.device, dtype_of(conditions, source))
    on_progress("rates", 1, 1)
    on_progress("steps", 0, total)
    rows = measure(
        lambda variant: subject.open(num_models, variant.parts, variant.residuals),
        variants,
        points,
        conditions,
        reached,
        lambda done: on_progress("steps", done, total),
    )
    facts: dict[str, Any] = {"rates": asdict(reached)}
    if cold:
        facts["cold"] = _loads(source, conditions, on_progress)
    if beside:
        facts["outside"] = measure_outside(source, beside, conditions, on_progress)
    settings = subject.settings() | asdict(grid) | _shown(conditions) | {"places": list(rooms)}
    return Result("step", here, settings, rows, facts)


def _shown(conditions: Conditions) -> dict[str, Any]:
    engine = {name: getattr(conditions.engine, name) for name in ("device", "dtype", "step_tokens")}
    return engine | {"num_steps": conditions.num_steps}


def _loads(
    source: ReleaseSource, conditions: Conditions, on_progress: OnProgress
) -> dict[str, Any]:
    """What loading a backbone costs on an engine that does nothing else."""
    found = cold_over_resident_ttft(
        source,
        Cold(places=min(2, len(source.models) - 1)),
        on_progress,
        conditions.engine,
    )
    return {"cold_over_resident": found.value, **found.facts}
