"""Compares decode steps of models with recurrent mixers, and what their states cost. On the CPU."""

import statistics
from collections.abc import Mapping

import torch

from serve_app.bench.bars.decoding import Decoding, open_engine, packed_ratios
from serve_app.bench.bars.profiling import STATE_CALLS, CallClock
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.rates import measure_rates
from serve_app.bench.step.session import WARM_STEPS, Session, running
from serve_app.engine.source import ReleaseSource

AS_ELSEWHERE = Decoding()


def hybrid_ratios(
    source: ReleaseSource,
    wanted: Decoding = AS_ELSEWHERE,
    on_progress: OnProgress = lambda *_: None,
) -> Mapping[str, Measured]:
    """`hybrid_packed_over_sequential`: as `packed_over_sequential`.

    `state_update_over_copied`: the time of a packed step in which states are read and written,
    divided by that in which they are copied once, at the rate of a large copy.
    """
    packed = packed_ratios(source, wanted, on_progress)["packed_over_sequential"]
    models = [name for name in sorted(source.models) for _ in range(wanted.sequences)]
    with running(open_engine(source, wanted), source) as engine:
        session = Session(engine, source, step_tokens=wanted.step_tokens)
        session.warm(sorted(source.models))
        store = engine.packed.states
        row_bytes = store.num_bytes // (engine.memory.state_rows + 1)
        seconds, clock = [], CallClock(STATE_CALLS)
        session.begin(models, wanted.context, wanted.steps)
        with clock.running():
            for number in range(-WARM_STEPS, wanted.steps):
                before = clock.seconds
                session.step()
                if number >= 0:
                    seconds.append(clock.seconds - before)
        session.end()
    rate = measure_rates("cpu", torch.float32).copy_bytes_s
    copied = 2 * row_bytes * len(models) / rate
    updated = statistics.median(seconds)
    facts = {"updated_s": updated, "copied_s": copied, "state_bytes": row_bytes * len(models)}
    return {
        "hybrid_packed_over_sequential": packed,
        "state_update_over_copied": Measured(updated / copied, facts),
    }
