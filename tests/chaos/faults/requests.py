"""Clients that do what clients should not, and more of them than there is room for."""

import asyncio
from collections.abc import Mapping
from typing import Any

import openai

from tests.chaos.asking import judge_status
from tests.chaos.faults.leaks import give_up
from tests.chaos.ground import Scene
from tests.chaos.ledger import Kind

NUM_LEAVING = 300
NUM_LONG, CHOICES, LENGTH = 24, 4, 200
"""Requests whose keys and values together are several times the store."""


def clients_leave(ground: Scene) -> Mapping[str, Any]:
    """At random moments, before and within their streams."""
    give_up(ground, NUM_LEAVING)
    ground.hurt()
    return {"left": NUM_LEAVING}


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
