"""Measures the processor time of planning a step while many tenants wait. No engine, no tensors."""

import statistics
import time

from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.scheduling.events import Finished
from serve_app.scheduling.ledgers.blocks import BlockLedger
from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.scheduler import Scheduler
from serve_app.scheduling.sequence import Sequence

NUM_STEPS = 300
_NUM_MODELS, _NUM_RUNNING, _TOKENS = 4, 64, 16


def planning_ms(
    num_waiting: int = 1000,
    *,
    num_steps: int = NUM_STEPS,
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """The median over steps, in ms, with one request of each of so many tenants waiting.

    A tenant whose request has ended sends another.
    """
    scheduler = Scheduler(
        [BlockLedger(2 * _NUM_RUNNING * _TOKENS, _TOKENS)],
        PlaceLedger(_NUM_MODELS),
        step_tokens=512,
        max_sequences=_NUM_RUNNING,
        max_model_wait_s=1.0,
        max_batch_wait_s=1.0,
    )
    number = 0
    for tenant in range(num_waiting + _NUM_RUNNING):
        scheduler.add(_request(tenant, number), 0.0)
        number += 1
    taken = []
    for step in range(num_steps):
        if step % 100 == 0:
            on_progress("planning", step, num_steps)
        began = time.thread_time()
        plan = scheduler.schedule(float(step))
        taken.append(1e3 * (time.thread_time() - began))
        for load in plan.loads:
            scheduler.loaded(load.backbone)
        sampled = {chunk.sequence: 5 for chunk in plan.chunks if chunk.samples}
        for event in scheduler.commit(plan, sampled, float(step)):
            if isinstance(event, Finished):
                scheduler.add(_request(int(event.id.split()[0]), number), float(step))
                number += 1
    on_progress("planning", num_steps, num_steps)
    p99 = statistics.quantiles(taken, n=100)[98]
    return Measured(statistics.median(taken), {"p99_ms": p99, "waiting": num_waiting})


def _request(tenant: int, number: int) -> Sequence:
    model = f"m{number % _NUM_MODELS}"
    prompt = (3,) * _TOKENS
    return Sequence(f"{tenant} {number}", ("r", model), model, prompt, _TOKENS, f"t{tenant}")
