"""The items of one job at the ingress: their order, who is woken, and what closing does."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from serve_app.protocol.errors import internal
from serve_app.protocol.messages import Item
from serve_app.serving.transport.inbox import Inbox
from tests.api.fakes import ACCEPTED, piece


def run(test: Callable[[Inbox], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(5):
            await test(Inbox(lambda _: None))

    asyncio.run(within())


async def read(inbox: Inbox) -> list[list[Item]]:
    return [batch async for batch in inbox]


def test_what_came_before_the_first_items_follows_them() -> None:
    async def test(inbox: Inbox) -> None:
        reading = asyncio.create_task(read(inbox))
        await asyncio.sleep(0)
        inbox.put([piece("a")])
        inbox.put([piece("b")])
        await asyncio.sleep(0.01)
        inbox.open([ACCEPTED])
        await asyncio.sleep(0.01)
        inbox.put([piece("c", "stop")])
        inbox.put(None)
        assert await reading == [[ACCEPTED], [piece("a"), piece("b")], [piece("c", "stop")]]

    run(test)


def test_its_reader_is_woken_only_for_something_to_take() -> None:
    async def test(inbox: Inbox) -> None:
        waiting = inbox.__anext__()
        promised = waiting.send(None)
        inbox.put([piece("a")])  # the first items are not there yet
        assert not promised.done()
        inbox.open([ACCEPTED])
        assert promised.done()
        with pytest.raises(StopIteration) as got:
            waiting.send(None)
        assert got.value.value == [ACCEPTED]
        assert await anext(inbox) == [piece("a")]
        second = inbox.__anext__()
        promised = second.send(None)
        inbox.put([])
        assert not promised.done()
        inbox.put(None)
        assert promised.done()
        second.close()

    run(test)


def test_a_reader_that_gave_up_once_misses_nothing() -> None:
    async def test(inbox: Inbox) -> None:
        inbox.open([ACCEPTED])
        assert await anext(inbox) == [ACCEPTED]
        impatient = asyncio.create_task(anext(inbox))
        await asyncio.sleep(0)
        impatient.cancel()
        inbox.put([piece("a")])
        inbox.fail(internal())
        assert await read(inbox) == [[piece("a"), internal().to_item()]]

    run(test)


def test_closing_is_told_once_and_ends_it() -> None:
    async def test(_: Inbox) -> None:
        told: list[Inbox] = []
        inbox = Inbox(told.append)
        await inbox.aclose()
        await inbox.aclose()
        assert told == [inbox]
        assert await inbox.ended(0.01)

    run(test)
