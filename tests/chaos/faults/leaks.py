"""Loads, reloads and aborts by the hundred: all ends at the bytes it began with."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import openai

from serve_app.bench.http.processor_time import ENGINE, INGRESS, TEXT
from tests.chaos.faults.processes import CONTROLLER
from tests.chaos.ground import Ground, Scene
from tests.chaos.ledger import Kind
from tests.chaos.memory import Held, grown, held

LOADS, RELOADS, ABORTS = 200, 60, 2000
WATCHED = (ENGINE, TEXT, INGRESS, CONTROLLER)
COUNTED = (
    *("kv_blocks_used", "input_blocks_used", "state_rows_used"),
    *("num_running", "num_waiting", "loaded_releases"),
    *("pool_bytes", "backbone_bytes", "kv_bytes", "state_bytes", "host_bytes"),
)
AT_ONCE = 16
"""Requests that are given up at the same time."""


def backbone_loads(ground: Scene) -> Mapping[str, Any]:
    """Models by turns, each of which puts another one out of its place."""

    def load(count: int) -> None:
        models = ground.load.models
        before, turn = ground.endpoint.metric("backbone_loads_total"), 0
        while ground.endpoint.metric("backbone_loads_total") < before + count:
            for _ in range(10):
                _ask_one(ground, models[turn % len(models)])
                turn += 1

    return _as_before(ground, lambda: load(LOADS // 5), lambda: load(LOADS))


def reloads(ground: Ground) -> Mapping[str, Any]:
    """Two releases by turns."""
    releases = [ground.family.fresh(), ground.family.first]

    def reload(count: int) -> None:
        for number in range(count):
            ground.serve(releases[number % 2])

    found = _as_before(ground, lambda: reload(6), lambda: reload(RELOADS))
    assert ground.endpoint.serving() == ground.family.first
    return found


def aborts(ground: Scene) -> Mapping[str, Any]:
    """Clients that leave in the middle of a stream."""
    return _as_before(
        ground,
        lambda: give_up(ground, ABORTS // 5),
        lambda: give_up(ground, ABORTS),
    )


def give_up(ground: Scene, count: int) -> None:
    """Begins streams of all models, and leaves each after a while."""
    ground.load.start(_give_up(ground, count)).result(timeout=300)


async def _give_up(ground: Scene, count: int) -> None:
    choice, left = random.Random(count), iter(range(count))
    keys = ground.load.keys

    async def leave_again_and_again(key: str) -> None:
        async with ground.load.client(key) as client:
            for _ in left:
                try:
                    async with asyncio.timeout(choice.uniform(0.005, 0.15)):
                        await _stream(client, choice.choice(ground.load.models))
                except (TimeoutError, openai.APIError):
                    continue

    await asyncio.gather(*(leave_again_and_again(keys[n % len(keys)]) for n in range(AT_ONCE)))


async def _stream(client: openai.AsyncOpenAI, model: str) -> None:
    stream = await client.completions.create(
        model=model,
        prompt="on and on",
        max_tokens=200,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    async with stream:
        async for _ in stream:
            pass


def _ask_one(ground: Scene, model: str) -> None:
    outcome = ground.load.ask_one(model)
    assert outcome.kind is Kind.RIGHT, f"{model}: {outcome.kind} {outcome.said}"


def _as_before(
    ground: Scene, warm: Callable[[], None], work: Callable[[], None]
) -> Mapping[str, Any]:
    """Works, and compares what is held with what was held before. warm: a little of the same."""
    warm()
    before, counted = _held(ground), _counted(ground)
    begun = time.monotonic()
    work()
    seconds = time.monotonic() - begun
    after = _held(ground)
    ground.hurt()
    assert _counted(ground) == counted
    more = grown(before, after)
    assert not more, "; ".join(more)
    growth = {f"{name} MB": (after[name].rss - old.rss) / 1e6 for name, old in before.items()}
    return {"took s": seconds, **growth}


def _held(ground: Scene) -> dict[str, Held]:
    ground.until(lambda: _is_idle(ground), "the engine is idle")
    time.sleep(1)
    found = {}
    for part in WATCHED:
        for number, pid in enumerate(ground.endpoint.pids(part)):
            found[f"{part} {number}" if number else part] = held(pid)
    return found


def _counted(ground: Scene) -> dict[str, Any]:
    status = ground.endpoint.status()
    return {name: status[name] for name in COUNTED} | {"broken": status["broken_invariant"]}


def _is_idle(ground: Scene) -> bool:
    status = ground.endpoint.status()
    idle = status["num_running"] == status["num_waiting"] == status["kv_blocks_used"] == 0
    return bool(idle and status["loaded_releases"] == 1 and status["staging"] is None)
