"""Times steps of one engine and holds them against their floors. No Ray, no HTTP, no pydantic."""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from representation.architecture.config import config_of, vocabulary_size
from serve_app.bench.step.floor import Floor, FloorPlan
from serve_app.bench.step.grid import GridPoint, Limit, Variant, models_of
from serve_app.bench.step.rates import Rates
from serve_app.bench.step.session import Session, Steps, decode_tokens, running
from serve_app.engine.engine import Engine
from serve_app.engine.memory import Limits
from serve_app.engine.model.facts import context_length, resolve_dtype, widest
from serve_app.engine.source import ReleaseSource

PREFILLS = 3
"""Steps of a whole prompt that are timed, at most: they are long."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all points of a run have in common.

    dtype: as `Engine.open` takes it.   num_steps: that are timed at each point.   step_tokens: the
    most that the engine computes in a step.
    """

    device: str
    dtype: str
    num_steps: int
    step_tokens: int


SourceOf = Callable[[Variant], ReleaseSource]
"""The release of a variant."""


def measure(
    source_of: SourceOf,
    variants: Sequence[Variant],
    points: Sequence[GridPoint],
    setting: Setting,
    rates: Rates,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """A row for every point of every variant.

    on_progress: called with the number of rows that are done.   Raises: EngineError.
    """
    rows: list[dict[str, Any]] = []
    for variant in variants:
        for row in _of_variant(source_of(variant), variant, points, setting, rates):
            rows.append(row)
            on_progress(len(rows))
        gc.collect()  # the engine's tensors, before the next one's are allocated
        if setting.device != "cpu":
            torch.cuda.empty_cache()
    return with_ratios(rows)


def _of_variant(
    source: ReleaseSource,
    variant: Variant,
    points: Sequence[GridPoint],
    setting: Setting,
    rates: Rates,
) -> Iterator[dict[str, Any]]:
    names = sorted(source.models)
    plan = FloorPlan(widest(source.models), resolve_dtype(setting.dtype, source.dtype))
    with running(open_engine(source, variant.places, points, setting), source) as engine:
        session = Session(
            engine, source, vocabulary=shortest_vocabulary(source), step_tokens=setting.step_tokens
        )
        session.warm(names[: max(point.models for point in points)])
        for point in points:
            steps = _time(session, point, names, setting)
            floor = plan.floor(point.models, steps.spans, steps.routing, rates)
            yield row(point, variant, steps, floor)


def open_engine(
    source: ReleaseSource, places: int, points: Sequence[GridPoint], setting: Setting
) -> Engine:
    """An engine with room for the largest of the points."""
    return Engine.open(
        source,
        device=setting.device,
        dtype=setting.dtype,
        kv_tokens=kv_tokens(points, setting),
        num_places=places,
        prefix_cache=False,
        limits=Limits(
            max_tokens=setting.step_tokens,
            max_sequences=max(point.sequences for point in points),
        ),
    )


def kv_tokens(points: Sequence[GridPoint], setting: Setting) -> int:
    """Tokens that the KV store must hold: whole blocks for each sequence."""
    return max(point.sequences * (_length(point, setting) + 16) for point in points)


def _length(point: GridPoint, setting: Setting) -> int:
    if point.phase == "prefill":
        return point.context + 1
    more = decode_tokens(point.sequences, point.context, setting.num_steps, setting.step_tokens)
    return point.context + more


def _time(session: Session, point: GridPoint, names: Sequence[str], setting: Setting) -> Steps:
    models = list(models_of(point, names))
    if point.phase == "decode":
        return session.decode(models, point.context, setting.num_steps)
    return session.prefill(models, point.context, min(PREFILLS, setting.num_steps))


def row(point: GridPoint, variant: Variant, steps: Steps, floor: Floor) -> dict[str, Any]:
    """What is said of one point."""
    median = statistics.median(steps.seconds)
    traffic = floor.traffic
    used = [use.num_rows for layer in steps.routing for use in layer.values()]
    return {
        "phase": point.phase,
        "models": point.models,
        "sequences": point.sequences,
        "context": point.context,
        "places": variant.places,
        "parts": variant.parts,
        "residuals": list(variant.residuals),
        "step_s": median,
        "least_s": min(steps.seconds),
        "steps": len(steps.seconds),
        "tokens_s": point.num_tokens / median,
        "floor_s": floor.seconds,
        "limit": floor.limit,
        "reached": floor.seconds / median,
        "bytes": traffic.total,
        "pool_bytes": traffic.pool,
        "backbone_bytes": traffic.backbones,
        "kv_bytes": traffic.kv,
        "logits_bytes": traffic.logits,
        "operations": floor.operations,
        "pool_rows": sum(used),
    }


def with_ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with what several models take over one, and residuals over none: time and bytes."""
    found = []
    for one in rows:
        added = dict(one)
        if one["models"] > 1:
            added |= _over(one, rows, "one_model", models=1)
        if one["residuals"]:
            added |= _over(one, rows, "no_residuals", residuals=[])
        found.append(added)
    return found


def _over(
    one: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str, **other: Any
) -> dict[str, float]:
    axes = ("phase", "models", "sequences", "context", "places", "parts", "residuals")
    wanted = {axis: one[axis] for axis in axes} | other
    for base in rows:
        if all(base[axis] == value for axis, value in wanted.items()):
            return {
                f"time_over_{name}": one["step_s"] / base["step_s"],
                f"bytes_over_{name}": one["bytes"] / base["bytes"],
            }
    return {}


def shortest_vocabulary(source: ReleaseSource) -> int:
    """Token ids that every model of a release has."""
    return min(vocabulary_size(config_of(model.config)) for model in source.models.values())


def dtype_of(setting: Setting, source: ReleaseSource) -> torch.dtype:
    """What the engine computes in. Raises: Unsupported."""
    return resolve_dtype(setting.dtype, source.dtype)


def limit_of(source: ReleaseSource, setting: Setting) -> Limit:
    """What bounds the points that can be measured with a release."""
    return Limit(
        models=len(source.models),
        context=min(context_length(model.config) for model in source.models.values()),
        step_tokens=setting.step_tokens,
        num_steps=setting.num_steps,
    )
