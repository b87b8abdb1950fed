"""Jobs that Serve keeps since there is no engine: refused soon, and never while there is one."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from serve_app.protocol.messages import Item, Status
from serve_app.serving.transport import client as transport_client
from serve_app.serving.transport import doubt, engine_watch
from serve_app.serving.transport.client import HandleClient
from tests.serving.running import until

JOB: Any = {"id": "j", "streamed": True, "timeout_s": None, "prompts": ["x"]}


class _Handle:
    """Keeps jobs until `goes_on`, as Serve's does while there is no replica."""

    def __init__(self, *, is_there: bool) -> None:
        self._is_there = is_there
        self.goes_on = asyncio.Event()
        self.status = _Method(self._status)
        self.send = self
        self.num_asked = 0
        self.given_up: list[str] = []

    def options(self, **_: Any) -> "_Handle":
        return self

    def broadcast(self, _: str, job: str) -> "_Given":
        self.given_up.append(job)
        return _Given()

    async def remote(self, *_: Any) -> AsyncGenerator[Any, None]:
        await self.goes_on.wait()
        yield {"items": [{"type": "accepted", "release": "r1"}], "carries": True}
        yield [("j", [{"type": "text"}]), ("j", None)]

    async def _status(self) -> Status:
        self.num_asked += 1
        if not self._is_there:
            await asyncio.Future()
        return {"healthy": True, "release": "r1", "detail": {}, "start_s": 3.0}


class _Method:
    def __init__(self, function: Any) -> None:
        self.remote = function


class _Given:
    async def results_async(self, **_: Any) -> list[None]:
        return []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (doubt, transport_client):
        monkeypatch.setattr(module, "OPENS_S", 0.02)
    monkeypatch.setattr(engine_watch, "_ANSWER_S", 0.05)


def test_without_an_engine_a_job_is_refused_within_two_seconds() -> None:
    """Of these, two tenths are for what carries the refusal."""
    assert doubt.OPENS_S + engine_watch._ANSWER_S <= 1.8

    async def run() -> tuple[Item, float]:
        client, begun = HandleClient(_Handle(is_there=False)), time.monotonic()
        async for items in client.generate(JOB):
            return items[0], time.monotonic() - begun
        raise AssertionError("nothing was said")

    (refusal, seconds) = asyncio.run(run())
    assert refusal["type"] == "error"
    assert refusal["code"] == "engine_unavailable"
    assert refusal["retry_after_s"] >= 1
    assert "No engine is ready" in refusal["message"]
    assert seconds < 10


def test_a_job_that_was_refused_is_given_up_where_it_arrives_at_last(quick: None) -> None:
    async def run() -> list[str]:
        handle = _Handle(is_there=False)
        inbox = HandleClient(handle).generate(JOB)
        async for items in inbox:
            assert items[0]["type"] == "error"
        await inbox.aclose()
        handle.goes_on.set()
        await until(lambda: bool(handle.given_up))
        return handle.given_up

    assert asyncio.run(run()) == ["j"]


def test_a_job_waits_as_long_as_an_engine_says_that_it_is_there(quick: None) -> None:
    async def run() -> tuple[list[str], int]:
        handle = _Handle(is_there=True)
        inbox = HandleClient(handle).generate(JOB)
        said = asyncio.create_task(anext(inbox))
        await until(lambda: handle.num_asked >= 4)
        assert not said.done()
        handle.goes_on.set()
        first = await said
        num_asked = handle.num_asked
        await asyncio.sleep(0.1)
        return [item["type"] for item in first], handle.num_asked - num_asked

    assert asyncio.run(run()) == (["accepted"], 0)
