"""A stream and its socket: what is written when, and what happens if writing must wait."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from serve_app.api.answers.answer import Head, Usage
from serve_app.api.answers.completion_answers import CompletionFormat
from serve_app.api.answers.event_bytes import Events
from serve_app.api.quiet_body import KEEP_ALIVE
from serve_app.api.streams import EventStream, collect
from serve_app.protocol.messages import Item
from serve_app.serving.transport.inbox import Inbox
from tests.api.fakes import ACCEPTED, piece


def stream_of(items: Any, choices: int = 1, keep_alive_s: float = 15.0) -> EventStream:
    form = CompletionFormat(logprobs=False, include_usage=False)
    head = Head("i", 5, "m", "r1", "default")
    events = Events(form, head, Usage([3]), choices)
    return EventStream(events, items, keep_alive_s)


class Socket:
    """Takes writes one by one, each when it is allowed to; the client never leaves."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.more: list[bool] = []
        self.allowed = asyncio.Semaphore(0)

    async def send(self, message: Any) -> None:
        await self.allowed.acquire()
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])
            self.more.append(message["more_body"])

    async def receive(self) -> Any:
        await asyncio.Event().wait()


def test_what_comes_while_a_write_waits_is_written_together() -> None:
    async def run() -> None:
        socket, inbox = Socket(), Inbox(lambda _: None)
        inbox.open([ACCEPTED])
        assert await anext(inbox) == [ACCEPTED]
        answering = asyncio.create_task(stream_of(inbox)({}, socket.receive, socket.send))
        socket.allowed.release()  # the head
        inbox.put([piece("a")])
        await asyncio.sleep(0.01)
        for text in "bcd":
            inbox.put([piece(text)])
            await asyncio.sleep(0)
        for _ in range(2):
            socket.allowed.release()
        await asyncio.sleep(0.01)
        assert [body.count(b"data:") for body in socket.bodies] == [1, 3]
        inbox.put([piece("e"), piece("", "stop")])
        inbox.put(None)
        socket.allowed.release()
        async with asyncio.timeout(5):
            await answering
        assert socket.bodies[-1].endswith(b"data: [DONE]\n\n")
        assert socket.bodies[-1].count(b"data:") == 3
        assert socket.more == [True, True, False]

    asyncio.run(run())


def test_a_stream_that_breaks_while_it_is_written_ends_with_an_error_event() -> None:
    async def items() -> AsyncGenerator[list[Item], None]:
        yield [ACCEPTED]
        yield [piece("a")]
        raise ValueError("something else")

    async def run() -> None:
        socket = Socket()
        for _ in range(9):
            socket.allowed.release()
        await stream_of(items())({}, socket.receive, socket.send)
        assert json.loads(socket.bodies[0].split(b"data: ")[1])["choices"][0]["text"] == "a"
        event = json.loads(socket.bodies[-1].removeprefix(b"data: "))
        assert event["error"]["code"] == "internal_error"
        assert socket.more == [True, False]

    asyncio.run(run())


def test_pieces_without_anything_to_show_are_no_write() -> None:
    async def items() -> AsyncGenerator[list[Item], None]:
        yield [ACCEPTED]
        yield [piece("", "stop")]

    async def run() -> None:
        socket = Socket()
        for _ in range(9):
            socket.allowed.release()
        await stream_of(items())({}, socket.receive, socket.send)
        assert len(socket.bodies) == 1

    asyncio.run(run())


def test_a_stream_that_says_nothing_for_long_says_that_it_is_there() -> None:
    async def run() -> None:
        socket, inbox = Socket(), Inbox(lambda _: None)
        inbox.open([ACCEPTED])
        assert await anext(inbox) == [ACCEPTED]
        stream = stream_of(inbox, keep_alive_s=0.05)
        answering = asyncio.create_task(stream({}, socket.receive, socket.send))
        socket.allowed.release()  # the head
        await asyncio.sleep(0.12)
        inbox.put([piece("a")])  # behind a comment that cannot be written yet
        await asyncio.sleep(0.02)
        assert socket.bodies == []
        for _ in range(2):
            socket.allowed.release()
        await asyncio.sleep(0.01)
        assert socket.bodies[0] == KEEP_ALIVE
        assert b"data:" in socket.bodies[1]
        assert len(socket.bodies) == 2
        inbox.put([piece("", "stop")])
        inbox.put(None)
        socket.allowed.release()
        async with asyncio.timeout(5):
            await answering
        assert socket.more == [True, True, False]
        await asyncio.sleep(0.1)
        assert socket.allowed.locked()  # no comment comes after the end

    asyncio.run(run())


def test_a_stream_that_speaks_says_nothing_more() -> None:
    async def items() -> AsyncGenerator[list[Item], None]:
        for _ in range(10):
            await asyncio.sleep(0.02)
            yield [piece("a")]
        yield [piece("", "stop")]

    async def run() -> None:
        socket = Socket()
        for _ in range(99):
            socket.allowed.release()
        await stream_of(items(), keep_alive_s=0.1)({}, socket.receive, socket.send)
        assert KEEP_ALIVE not in socket.bodies

    asyncio.run(run())


def test_a_client_that_leaves_while_a_comment_waits_ends_the_stream() -> None:
    async def run() -> None:
        socket, closed = Socket(), asyncio.Event()
        gone = asyncio.Event()

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        inbox = Inbox(lambda _: closed.set())
        inbox.open([ACCEPTED])
        assert await anext(inbox) == [ACCEPTED]
        stream = stream_of(inbox, keep_alive_s=0.01)
        answering = asyncio.create_task(stream({}, receive, socket.send))
        socket.allowed.release()  # the head
        await asyncio.sleep(0.05)
        gone.set()
        async with asyncio.timeout(5):
            await answering
        assert closed.is_set()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_an_answer_that_comes_anew_is_whole_and_counts_once() -> None:
    async def items() -> AsyncGenerator[list[Item], None]:
        yield [piece("old "), piece("begin", num_cached=2)]
        yield [{"type": "again"}, piece("a")]
        yield [piece("b", "stop")]

    head, usage = Head("i", 5, "m", "r1", "default"), Usage([3])
    form = CompletionFormat(logprobs=False, include_usage=False)
    body = json.loads(asyncio.run(collect(items(), form, head, usage, choices=1)))
    assert body["choices"][0]["text"] == "ab"
    assert (usage.num_answered, usage.num_cached, usage.finishes) == (2, 0, ["stop"])
