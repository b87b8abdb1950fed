"""The way over Ray's handle: what it does when the other side is full, gone, or breaks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from serve_app.api.errors import ApiError
from serve_app.api.wire import Item, Job
from serve_app.serving.ingress import HandleClient, Ingress
from tests.api.fakes import ACCEPTED, piece

JOB: Any = {"id": "j"}
FULL = BackPressureError(num_queued_requests=1, max_queued_requests=1)


class FakeStream:
    """What a handle returns for a streaming call."""

    def __init__(self, batches: list[list[Item]], error: Exception | None) -> None:
        self._batches = batches
        self._error = error
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[list[Item]]:
        for batch in self._batches:
            yield batch
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    """A handle whose every method gives `batches`, or raises."""

    def __init__(self, *batches: list[Item], error: Exception | None = None) -> None:
        self.stream = FakeStream(list(batches), error)
        self._error = error
        self._streams = False
        self.arguments: list[Any] = []

    def options(self, *, stream: bool) -> "FakeHandle":
        self._streams = stream
        return self

    def __getattr__(self, name: str) -> Any:
        if name not in ("generate", "tokenize", "detokenize", "models", "status", "metrics"):
            raise AttributeError(name)
        return self

    def remote(self, *arguments: Any) -> Any:
        self.arguments = list(arguments)
        if arguments == (JOB,):
            return self.stream
        return self._reply()

    async def _reply(self) -> Any:
        if self._error is not None:
            raise self._error
        return "reply"


async def _take(client: HandleClient, num: int | None = None) -> list[Item]:
    items: list[Item] = []
    job: Job = JOB
    async with aclosing(client.generate(job)) as batches:
        async for batch in batches:
            items += batch
            if num is not None and len(items) >= num:
                break
    return items


def test_items_pass_as_they_are() -> None:
    handle = FakeHandle([ACCEPTED], [piece("a"), piece("b", "stop")])
    items = asyncio.run(_take(HandleClient(handle)))
    assert items == [ACCEPTED, piece("a"), piece("b", "stop")]
    assert not handle.stream.cancelled


def test_a_stream_that_is_left_is_cancelled() -> None:
    handle = FakeHandle([ACCEPTED], [piece("a")])
    asyncio.run(_take(HandleClient(handle), num=1))
    assert handle.stream.cancelled


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(FULL, 429, "server_overloaded"), (ActorDiedError(), 503, "loading")],
)
def test_an_engine_out_of_reach_is_a_refusal(error: Exception, status: int, code: str) -> None:
    [item] = asyncio.run(_take(HandleClient(FakeHandle(error=error))))
    assert item["type"] == "error"
    assert (item["status"], item["code"]) == (status, code)
    with pytest.raises(ApiError) as caught:
        asyncio.run(HandleClient(FakeHandle(error=error)).models())
    assert caught.value.status == status


def test_an_engine_that_dies_in_the_middle_is_an_internal_error() -> None:
    handle = FakeHandle([ACCEPTED], [piece("a")], error=ActorDiedError())
    items = asyncio.run(_take(HandleClient(handle)))
    assert items[-1]["type"] == "error"
    assert items[-1]["code"] == "internal_error"


def test_questions_are_passed_on() -> None:
    async def run() -> None:
        client = HandleClient(FakeHandle())
        asked: Any = {"model": "m"}
        for answer in (
            await client.tokenize(asked),
            await client.detokenize(asked),
            await client.models(),
            await client.status(),
            await client.metrics(),
        ):
            assert answer == "reply"

    asyncio.run(run())


def test_the_ingress_builds_its_application() -> None:
    ingress = Ingress(FakeHandle(), {"n": 3})
    assert callable(ingress.__serve_build_asgi_app__())
