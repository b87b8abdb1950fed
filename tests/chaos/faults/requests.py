"""Clients that do what clients should not, and more of them than there is room for."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from tests.chaos.asking import judge_status
from tests.chaos.faults.leaks import give_up
from tests.chaos.ground import Scene
from tests.chaos.ledger import Kind
from tests.serving.hostile import answer, hostile_requests

NUM_LEAVING = 300
NUM_HOSTILE, HOSTILE_AT_ONCE = 9000, 8
NUM_LONG, CHOICES, LENGTH = 24, 4, 200
"""Requests whose keys and values together are several times the store."""


def clients_leave(ground: Scene) -> Mapping[str, Any]:
    """At random moments, before and within their streams."""
    give_up(ground, NUM_LEAVING)
    ground.hurt()
    return {"left": NUM_LEAVING}


def hostile(ground: Scene) -> Mapping[str, Any]:
    """What no client would send, with a good key: refused or answered, never by a fault."""
    port = int(ground.load.address.rpartition(":")[2])
    key = f"\r\nAuthorization: Bearer {ground.load.keys[0]}\r\n".encode()

    def status_of(asked: tuple[bytes, bool]) -> int:
        sent, is_whole = asked
        received = answer(port, sent.replace(b"\r\n", key, 1), is_whole=is_whole)
        status = int(received.split(b" ", 2)[1]) if received else 0
        is_late = status == 504 and b"Seconds: 1e-9" in sent
        assert status < 500 or is_late, f"{sent!r}: {received!r}"
        assert received or not is_whole, f"no answer to {sent!r}"
        return status

    with ThreadPoolExecutor(HOSTILE_AT_ONCE) as pool:
        statuses = Counter(pool.map(status_of, hostile_requests(NUM_HOSTILE)))
    ground.hurt()
    return {"sent": NUM_HOSTILE, "statuses": dict(sorted(statuses.items()))}


def blocks_run_out(ground: Scene) -> Mapping[str, Any]:
    """Long answers that do not all fit: sequences give way and go on later."""
    before = ground.endpoint.metric("num_preemptions_total")
    kinds = ground.load.start(_ask_long(ground)).result(timeout=300)
    ground.hurt()
    preempted = ground.endpoint.metric("num_preemptions_total") - before
    assert preempted > 0, "there was room for all"
    assert set(kinds) <= {Kind.RIGHT, Kind.REFUSED}, str(kinds)
    return {"preempted": preempted, "whole": kinds.count(Kind.RIGHT), "of": len(kinds)}


async def _ask_long(ground: Scene) -> list[Kind]:
    async def one(number: int) -> Kind:
        keys, models = ground.load.keys, ground.load.models
        async with ground.load.client(keys[number % len(keys)]) as client:
            try:
                answer = await client.completions.create(
                    model=models[number % len(models)],
                    prompt="as long as it goes",
                    max_tokens=LENGTH,
                    n=CHOICES,
                    seed=number,
                    timeout=240,
                    extra_body={"ignore_eos": True},
                )
            except openai.APIStatusError as error:
                return judge_status(error)[0]
            assert answer.usage is not None
            whole = answer.usage.completion_tokens == CHOICES * LENGTH
            return Kind.RIGHT if whole else Kind.WRONG

    return await asyncio.gather(*(one(number) for number in range(NUM_LONG)))
