"""Times steps of one engine and compares them with their floors. No Ray, HTTP or pydantic."""

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from serve_app.bench.step.floor import Floor, FloorPlan
from serve_app.bench.step.grid import GridPoint, Limit, Variant, models_of
from serve_app.bench.step.rates import Rates
from serve_app.bench.step.session import Session, Steps, decode_tokens, running
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.model.facts import context_length, resolve_dtype, widest
from serve_app.engine.source import ReleaseSource

PREFILLS = 3
"""At most this many steps of a whole prompt are timed, because they are long."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The settings that all points of a run share.

    engine: its device is one, and not `auto`; room for sequences and places follows from the
    points.   num_steps: that are timed at each point.
    """

    engine: EngineConfig
    num_steps: int


SourceOf = Callable[[Variant], ReleaseSource]
"""The release of a variant."""


def measure(
    source_of: SourceOf,
    variants: Sequence[Variant],
    points: Sequence[GridPoint],
    conditions: Conditions,
    rates: Rates,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """A row for every point of every variant.

    on_progress: called with the number of finished rows.   Raises: EngineError.
    """
    rows: list[dict[str, Any]] = []
    for variant in variants:
        for row in _of_variant(source_of(variant), variant, points, conditions, rates):
            rows.append(row)
            on_progress(len(rows))
        gc.collect()  # frees the engine's tensors before the next one's are allocated
        if conditions.engine.device != "cpu":
            torch.cuda.empty_cache()
    return with_ratios(rows)


def _of_variant(
    source: ReleaseSource,
    variant: Variant,
    points: Sequence[GridPoint],
    conditions: Conditions,
    rates: Rates,
) -> Iterator[dict[str, Any]]:
    names = sorted(source.models)
    plan = FloorPlan(widest(source.models), resolve_dtype(conditions.engine.dtype, source.dtype))
    with running(open_engine(source, variant.places, points, conditions), source) as engine:
        session = Session(engine, source, step_tokens=conditions.engine.step_tokens)
        session.warm(names[: max(point.models for point in points)])
        for point in points:
            steps = _time(session, point, names, conditions)
            present = sorted(set(models_of(point, names)))
            in_common = plan.in_common([source.models[name] for name in present])
            floor = plan.floor(point.models, steps.spans, steps.routing, rates, in_common)
            yield row(point, variant, steps, floor)


def open_engine(
    source: ReleaseSource,
    places: int,
    points: Sequence[GridPoint],
    conditions: Conditions,
    **others: Any,
) -> Engine:
    """An engine with room for the largest of the points. others: of `Engine.open`."""
    config = replace(
        conditions.engine,
        kv_tokens=kv_tokens(points, conditions),
        num_places=places,
        max_sequences=max(point.sequences for point in points),
        prefix_cache=False,
    )
    return Engine.open(source, config, **others)


def kv_tokens(points: Sequence[GridPoint], conditions: Conditions) -> int:
    """Tokens that the KV store must hold: whole blocks for each sequence."""
    return max(point.sequences * (_length(point, conditions) + 16) for point in points)


def _length(point: GridPoint, conditions: Conditions) -> int:
    if point.phase == "prefill":
        return point.context + 1
    more = decode_tokens(
        point.sequences, point.context, conditions.num_steps, conditions.engine.step_tokens
    )
    return point.context + more


def _time(
    session: Session, point: GridPoint, names: Sequence[str], conditions: Conditions
) -> Steps:
    models = list(models_of(point, names))
    if point.phase == "decode":
        return session.decode(models, point.context, conditions.num_steps)
    return session.prefill(models, point.context, min(PREFILLS, conditions.num_steps))


def row(point: GridPoint, variant: Variant, steps: Steps, floor: Floor) -> dict[str, Any]:
    """The row of one point."""
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
        "state_bytes": traffic.states,
        "logits_bytes": traffic.logits,
        "operations": floor.operations,
        "pool_rows": sum(used),
    }


def with_ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds ratios of time and bytes: several models to one, and residuals to none."""
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


def dtype_of(conditions: Conditions, source: ReleaseSource) -> torch.dtype:
    """What the engine computes in. Raises: Unsupported."""
    return resolve_dtype(conditions.engine.dtype, source.dtype)


def limit_of(source: ReleaseSource, conditions: Conditions) -> Limit:
    """The limits of the points that can be measured with a release."""
    return Limit(
        models=len(source.models),
        context=min(context_length(model.config) for model in source.models.values()),
        step_tokens=conditions.engine.step_tokens,
        num_steps=conditions.num_steps,
    )
