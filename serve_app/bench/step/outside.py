"""What decode steps cost outside the forward pass, in processor time. Times no forward's parts."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from serve_app.bench.result.measured import OnProgress
from serve_app.bench.step.grid import Grid, GridPoint, Limit, models_of
from serve_app.bench.step.session import GREEDY
from serve_app.bench.step.timing import Conditions, open_engine
from serve_app.bench.step.turns import Clock, decoding_loop, medians
from serve_app.engine.engine import Engine
from serve_app.engine.request import Sampling
from serve_app.engine.source import ReleaseSource

SEQUENCES = (16, 64, 256)
SAMPLINGS = {"greedy": GREEDY, "drawn": Sampling(temperature=0.8, top_p=0.95)}
"""How tokens are chosen, by name."""


def outside_points(grid: Grid, limit: Limit) -> list[GridPoint]:
    """The steps of a grid's most models and shortest context, with each number of SEQUENCES.

    Raises: ConfigError for what cannot be measured.
    """
    return Grid(("decode",), [max(grid.models)], SEQUENCES, [min(grid.contexts)]).points(limit)


def measure_outside(
    source: ReleaseSource,
    points: Sequence[GridPoint],
    conditions: Conditions,
    on_progress: OnProgress = lambda *_: None,
) -> list[dict[str, Any]]:
    """A row for each point and sampling: processor seconds of a turn, medians.

    Raises: EngineError.
    """
    names = sorted(source.models)
    asked = [(point, name) for point in points for name in SAMPLINGS]
    places = max(point.models for point in points)

    def opened(wake: Callable[[], None], clock: Clock) -> Engine:
        return open_engine(source, places, points, conditions, on_loaded=wake, clock=clock)

    rows: list[dict[str, Any]] = []
    step_tokens = conditions.engine.step_tokens
    with decoding_loop(opened, source, step_tokens=step_tokens, clock=time.thread_time) as loop:
        for number, (point, name) in enumerate(asked):
            on_progress("outside the forward", number, len(asked))
            models = list(models_of(point, names))
            turns = loop.turns(models, point.context, conditions.num_steps, SAMPLINGS[name])
            axes = {axis: getattr(point, axis) for axis in ("models", "sequences", "context")}
            rows.append({**axes, "sampling": name, "steps": len(turns), **medians(turns)})
    on_progress("outside the forward", len(asked), len(asked))
    return rows
