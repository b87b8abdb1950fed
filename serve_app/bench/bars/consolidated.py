"""Compares decode steps of packed experts with those of dense ones. Measures; judges nothing.

Each is an engine of its own, in one process; they are measured in turn, so that what else runs on
the machine reaches all alike.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from serve_app.bench.bars.decoding import Decoding, median_ratio, open_engine
from serve_app.bench.bars.profiling import CallClock
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.session import WARM_STEPS, Session, running
from serve_app.bench.weights.random_release import RandomRelease

SLOTS = {
    "dense": ("dense", ()),
    "four_bits": ("packed-4-128", ()),
    "one_size": ("split-8-128", ("packed-2-128",)),
}
"""Formats of slots and residuals. `one_size`: about what a plan of one model's bytes looks like."""

AS_ELSEWHERE = Decoding()
"""The sequences and rounds of the other bars."""

Make = Callable[[str, Sequence[str]], RandomRelease]
"""A release with slots and residuals in these formats."""


def steps_over_dense(
    make: Make, wanted: Decoding = AS_ELSEWHERE, on_progress: OnProgress = lambda *_: None
) -> dict[str, Measured]:
    """Times decode steps of all models' sequences, and of one sequence, in each format.

    `four_bits_over_dense`, `one_size_over_dense`: of all sequences.   `four_bits_alone_over_dense`:
    of one sequence. Divided by the same step with dense slots and no residuals.
    `…_products_over_dense`: the same of the time that compiled code takes for experts.
    """
    seconds: dict[tuple[str, bool], list[float]] = {}
    products: dict[tuple[str, bool], list[float]] = {}
    with ExitStack() as engines:
        sessions = {}
        for name, (slots, residuals) in SLOTS.items():
            source = make(slots, residuals)
            engine = engines.enter_context(running(open_engine(source, wanted), source))
            session = Session(engine, source, step_tokens=wanted.step_tokens)
            session.warm(sorted(source.models))
            sessions[name] = session, sorted(source.models)
        total = wanted.rounds * len(sessions) * 2
        for number in range(total):
            on_progress("steps of packed experts", number, total)
            name = list(sessions)[number // 2 % len(sessions)]
            session, models = sessions[name]
            alone = bool(number % 2)
            sequences = models[:1] if alone else models * wanted.sequences
            whole, inside = _decode(session, sorted(sequences), wanted)
            seconds.setdefault((name, alone), []).append(whole)
            products.setdefault((name, alone), []).append(inside)
    on_progress("steps of packed experts", total, total)
    return ratios_to_dense(seconds, products)


def _decode(session: Session, models: Sequence[str], wanted: Decoding) -> tuple[float, float]:
    """-> medians of the seconds of a step, and of those that compiled code took for experts"""
    session.begin(models, wanted.context, wanted.steps)
    seconds, products, clock = [], [], CallClock()
    with clock.running():
        for number in range(-WARM_STEPS, wanted.steps):
            before = clock.seconds
            taken, _ = session.step()
            if number >= 0:
                seconds.append(taken)
                products.append(clock.seconds - before)
    session.end()
    return statistics.median(seconds), statistics.median(products)


Times = Mapping[tuple[str, bool], Sequence[float]]
"""Of a step in each round, by name in `SLOTS` and whether of one sequence alone."""


def ratios_to_dense(seconds: Times, products: Times) -> dict[str, Measured]:
    """seconds: of whole steps   products: what compiled code took of them for experts

    Raises: ValueError if no compiled code was called.
    """
    facts = {
        f"{name}_{'one' if alone else 'all'}{what}_s": statistics.median(each)
        for what, times in (("", seconds), ("_products", products))
        for (name, alone), each in times.items()
    }
    if not all(min(each) > 0 for each in products.values()):
        raise ValueError("experts were not computed by compiled code")

    def ratio(times: Times, name: str, *, alone: bool = False) -> Measured:
        return Measured(median_ratio(times[name, alone], times["dense", alone]), facts)

    return {
        "four_bits_over_dense": ratio(seconds, "four_bits"),
        "four_bits_alone_over_dense": ratio(seconds, "four_bits", alone=True),
        "four_bits_products_over_dense": ratio(products, "four_bits"),
        "four_bits_products_alone_over_dense": ratio(products, "four_bits", alone=True),
        "one_size_over_dense": ratio(seconds, "one_size"),
    }
