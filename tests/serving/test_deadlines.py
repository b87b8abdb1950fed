"""Requests that give themselves a time, at a replica on a fake engine: where they wait in vain."""

import asyncio
import time

import httpx
import pytest

from serve_app.engine.request import Failed
from serve_app.errors import DeadlineMissed
from tests.serving.asking import refused
from tests.serving.fakes import World, world
from tests.serving.running import client_of, replica_of, serves, until

BODY = {"model": "a", "prompt": "the", "max_tokens": 9}
HEADERS = {"x-request-timeout-seconds": "0.1"}


def test_a_request_that_waits_for_a_release_too_long_is_504_and_not_computed() -> None:
    async def run() -> tuple[World, httpx.Response]:
        made = world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            replica._releases._admitting.clear()
            response = await client.post("/v1/completions", json=BODY, headers=HEADERS)
            assert replica._open.choices.total == 0
            return made, response

    made, response = asyncio.run(run())
    refused(response, 504, "deadline_exceeded", None)
    assert made.loop.seen == []


def test_a_request_whose_prompt_is_encoded_too_late_is_504_and_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> tuple[World, httpx.Response]:
        made = world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")

            async def never(*_: object, **__: object) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(replica._text, "encode", never)
            return made, await client.post("/v1/completions", json=BODY, headers=HEADERS)

    made, response = asyncio.run(run())
    refused(response, 504, "deadline_exceeded", None)
    assert made.loop.seen == []


def test_the_engine_knows_when_a_request_is_to_end_and_says_when_it_has_not() -> None:
    async def run() -> httpx.Response:
        made = world(manual=True)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            begun = time.monotonic()
            headers = {"x-request-timeout-seconds": "30"}
            asking = asyncio.create_task(
                client.post("/v1/completions", json={**BODY, "n": 2}, headers=headers)
            )
            await until(lambda: len(made.loop.seen) == 2)
            for request in made.loop.seen:
                assert request.deadline is not None
                assert begun + 29 < request.deadline <= time.monotonic() + 30
            missed = made.loop._running[made.loop.seen[0].id]
            made.loop._end(missed, Failed(missed.request.id, DeadlineMissed("its time is up")))
            response = await asking
            await until(lambda: made.loop.pages == 64)
            return response

    refused(asyncio.run(run()), 504, "deadline_exceeded", None)
