"""Compares decode steps of several models with those of one; finds the time outside the forward.

Measures in turns, in one engine; each figure is a median over rounds.
"""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.session import GREEDY, Session, decode_tokens, running
from serve_app.bench.step.timing import shortest_vocabulary
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop
from serve_app.engine.request import Event, Failed, Request, Token
from serve_app.engine.source import ReleaseSource
from serve_app.engine.stats import Stats
from serve_app.errors import EngineError

LOOK_S = 0.02
"""How often to look at a running loop."""
MORE_STEPS = 100
"""How many steps a loop may do before the first look, and after the last that counts."""


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


def open_engine(
    source: ReleaseSource, wanted: Decoding, on_loaded: Callable[[], None] = lambda: None
) -> Engine:
    """An engine with a place for every model and room for all sequences."""
    num = wanted.sequences * len(source.models)
    length = wanted.context + _num_tokens(num, wanted) + MORE_STEPS
    config = EngineConfig(
        device="cpu",
        kv_tokens=num * (length + 16),
        step_tokens=wanted.step_tokens,
        max_sequences=num,
        prefix_cache=False,
    )
    return Engine.open(source, config, on_loaded=on_loaded)


def _num_tokens(num: int, wanted: Decoding) -> int:
    return decode_tokens(num, wanted.context, wanted.steps, wanted.step_tokens)


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
        session = Session(
            engine,
            source,
            vocabulary=shortest_vocabulary(source),
            step_tokens=wanted.step_tokens,
        )
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
    names = sorted(source.models)
    loop = EngineLoop(lambda wake: open_engine(source, wanted, on_loaded=wake))
    try:
        loop.stage(source).result()
        first, last = _looks(loop, _requests(source, names, wanted), wanted.steps, on_progress)
    finally:
        loop.close()
    steps = last.counters.num_steps - first.counters.num_steps
    wall_s = last.heartbeat - first.heartbeat
    forward_s = last.counters.forward_seconds - first.counters.forward_seconds
    facts = {"steps": steps, "step_s": wall_s / steps, "forward_s": forward_s / steps}
    return Measured(1.0 - forward_s / wall_s, facts)


def _requests(source: ReleaseSource, names: Sequence[str], wanted: Decoding) -> list[Request]:
    vocabulary = shortest_vocabulary(source)
    random = torch.Generator().manual_seed(0)
    num = wanted.sequences * len(names)
    return [
        Request(
            f"{name} {number}",
            source.id,
            name,
            tuple(torch.randint(vocabulary, (wanted.context,), generator=random).tolist()),
            _num_tokens(num, wanted) + MORE_STEPS,
            GREEDY,
        )
        for name in names
        for number in range(wanted.sequences)
    ]


def _looks(
    loop: EngineLoop, requests: Sequence[Request], num_steps: int, on_progress: OnProgress
) -> tuple[Stats, Stats]:
    """Two looks at a loop, `num_steps` apart, while all requests were decoding.

    Raises: EngineError if a request fails, or ends too early.
    """
    begun: set[str] = set()
    errors: list[EngineError] = []
    ended = threading.Event()

    def note(event: Event) -> None:
        if isinstance(event, Failed):
            errors.append(event.error)
        elif isinstance(event, Token):
            begun.add(event.request)
            if event.finish is not None:
                ended.set()

    loop.submit_all(requests, note).result()
    decoding_since = float("inf")
    first: Stats | None = None
    while True:
        time.sleep(LOOK_S)
        look = loop.stats()
        if errors:
            raise errors[0]
        if ended.is_set():
            raise EngineError(f"requests ended before {num_steps} steps were seen")
        if first is None:
            if len(begun) == len(requests):
                decoding_since = min(decoding_since, time.monotonic())
            if look.heartbeat >= decoding_since:
                first = look
            continue
        done = look.counters.num_steps - first.counters.num_steps
        on_progress("steps of a loop", min(done, num_steps), num_steps)
        if done >= num_steps:
            return first, look
