"""Compares decode steps of several models with those of one; finds the time outside the forward.

Measures in turns, in one engine; each figure is a median over rounds.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.session import GREEDY, Session, decode_tokens, running
from serve_app.bench.step.turns import Clock, Turn, decoding_loop, medians
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.source import ReleaseSource


@dataclass(frozen=True, slots=True)
class Decoding:
    """What is decoded: `sequences` of each model, each after `context` tokens.

    steps: that are timed each time.   rounds: how often everything is measured.
    """

    sequences: int = 4
    context: int = 64
    steps: int = 12
    rounds: int = 3
    step_tokens: int = 512


def open_engine(source: ReleaseSource, wanted: Decoding, **others: Any) -> Engine:
    """An engine with a place for every model and room for all sequences.

    others: of `Engine.open`.
    """
    num = wanted.sequences * len(source.models)
    length = wanted.context + decode_tokens(num, wanted.context, wanted.steps, wanted.step_tokens)
    config = EngineConfig(
        device="cpu",
        kv_tokens=num * (length + 16),
        step_tokens=wanted.step_tokens,
        max_sequences=num,
        prefix_cache=False,
    )
    return Engine.open(source, config, **others)


def packed_ratios(
    source: ReleaseSource,
    wanted: Decoding = Decoding(),
    on_progress: OnProgress = lambda *_: None,
) -> dict[str, Measured]:
    """Times a decode step of all models, relative to a step for each in turn, and to one model's.

    `packed_over_sequential`: divided by the sum of each model's step with its own sequences.
    `packed_over_single`: divided by a step of the first model with as many sequences in all.
    """
    names = sorted(source.models)
    kinds = {
        "packed": [name for name in names for _ in range(wanted.sequences)],
        "single": names[:1] * (wanted.sequences * len(names)),
        **{name: [name] * wanted.sequences for name in names},
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    total = wanted.rounds * len(kinds)
    with running(open_engine(source, wanted), source) as engine:
        session = Session(engine, source, step_tokens=wanted.step_tokens)
        session.warm(names)
        for number in range(total):
            on_progress("packed steps", number, total)
            kind = list(kinds)[number % len(kinds)]
            steps = session.decode(kinds[kind], wanted.context, wanted.steps)
            seconds[kind].append(statistics.median(steps.seconds))
    on_progress("packed steps", total, total)
    return ratios_of(seconds, names)


def ratios_of(seconds: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, Measured]:
    """seconds: of a step in each round, `packed`, `single` and by model."""
    sequential = [sum(each) for each in zip(*(seconds[name] for name in names), strict=True)]
    facts = {
        "packed_s": statistics.median(seconds["packed"]),
        "single_s": statistics.median(seconds["single"]),
        "sequential_s": statistics.median(sequential),
        "rounds": {kind: list(each) for kind, each in seconds.items()},
    }
    return {
        "packed_over_sequential": Measured(median_ratio(seconds["packed"], sequential), facts),
        "packed_over_single": Measured(median_ratio(seconds["packed"], seconds["single"]), facts),
    }


def median_ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """Of the ratios in each round."""
    return statistics.median(one / other for one, other in zip(of, to, strict=True))


def outside_forward_share(
    source: ReleaseSource,
    wanted: Decoding = Decoding(steps=100),
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """The share of decode steps' time in a running engine loop that is outside the forward pass.

    Everything that a loop does counts: planning, sampling, committing, handing over tokens.
    """
    turns = _turns(source, wanted, time.perf_counter, on_progress)
    forward_s = sum(turn.forward for turn in turns)
    share = 1.0 - forward_s / sum(turn.whole for turn in turns)
    return Measured(share, {"steps": len(turns), **medians(turns)})


def outside_forward_ms(
    source: ReleaseSource,
    wanted: Decoding = Decoding(sequences=64, steps=30),
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """Milliseconds of the loop's processor time that a decode step costs outside the forward.

    The same as `outside_forward_share`, with many sequences; the median over the steps.
    """
    found = medians(turns := _turns(source, wanted, time.thread_time, on_progress))
    return Measured(found["outside_s"] * 1e3, {"steps": len(turns), **found})


def _turns(
    source: ReleaseSource, wanted: Decoding, clock: Clock, on_progress: OnProgress
) -> Sequence[Turn]:
    """Turns of a loop in which all sequences decode."""
    models = [name for name in sorted(source.models) for _ in range(wanted.sequences)]
    on_progress("steps of a loop", 0, 1)
    with decoding_loop(
        lambda wake, clock: open_engine(source, wanted, on_loaded=wake, clock=clock),
        source,
        step_tokens=wanted.step_tokens,
        clock=clock,
    ) as loop:
        turns = loop.turns(models, wanted.context, wanted.steps, GREEDY)
    on_progress("steps of a loop", 1, 1)
    return turns
