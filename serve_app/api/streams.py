"""Turns a job's items into one JSON answer or server-sent events; gives up when the client leaves.

Formats nothing: that is `answers`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.answers import AnswerFormat, Choice, Head, Usage
from serve_app.api.statuses import error_body
from serve_app.protocol.errors import ProtocolError, internal
from serve_app.protocol.messages import Accepted, Item, Piece

_T = TypeVar("_T")
_END = b"]}\n\n"
"""The part of a chunk before its one choice: the same for a whole request, so encoded once."""


class ClientGone(Exception):
    """The client has closed its connection; nobody is left to answer."""


class OpenJob:
    """An accepted job: `accepted` says by which release, `pieces` are what follows."""

    def __init__(self, accepted: Accepted, items: AsyncGenerator[list[Item], None]) -> None:
        self.accepted = accepted
        self._items = items

    @classmethod
    async def open(cls, items: AsyncGenerator[list[Item], None]) -> "OpenJob":
        """Waits for the first item of a job. Raises ProtocolError when the job is refused."""
        async for batch in items:
            for item in batch:
                if item["type"] == "accepted":
                    return cls(item, items)
                if item["type"] == "error":
                    raise ProtocolError.of_item(item)
        raise internal()

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """Yields all that have arrived. Raises ProtocolError when the engine fails midway."""
        async for batch in self._items:
            pieces: list[Piece] = []
            for item in batch:
                if item["type"] == "error":
                    if pieces:
                        yield pieces
                    raise ProtocolError.of_item(item)
                if item["type"] == "piece":
                    pieces.append(item)
            if pieces:
                yield pieces


async def collect(opened: OpenJob, form: AnswerFormat, head: Head, choices: int) -> dict[str, Any]:
    """The whole answer. Raises ProtocolError when the engine fails."""
    usage = Usage(opened.accepted["prompt_tokens"])
    collected = [Choice() for _ in range(choices)]
    async with aclosing(opened.pieces()) as batches:
        async for batch in batches:
            for piece in batch:
                usage.add(piece)
                collected[piece["choice"]].add(piece)
    if any(choice.finish is None for choice in collected):
        raise internal()
    return form.whole(head, collected, usage)


async def events(
    opened: OpenJob, form: AnswerFormat, head: Head, choices: int, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Server-sent events. `[DONE]` is the last, or the error if one happens midway.

    Events that are there at the same time are yielded together, because each yield is one write,
    and a write costs more than an event.
    """
    usage = Usage(opened.accepted["prompt_tokens"])
    base = head.body(form.chunk_kind)
    if include_usage:
        base = {**base, "usage": None}
    start = b"data: " + encoded(base).removesuffix(b"}") + b',"choices":['
    unfinished = choices
    ready = [
        start + encoded(body) + _END for choice in range(choices) for body in form.opening(choice)
    ]
    async with aclosing(opened.pieces()) as batches:
        try:
            if ready:
                yield b"".join(ready)
                ready = []
            async for batch in batches:
                for piece in batch:
                    usage.add(piece)
                    unfinished -= piece["finish"] is not None
                    ready += [start + encoded(body) + _END for body in form.chunks(piece)]
                if unfinished and ready:
                    yield b"".join(ready)
                    ready = []
            if unfinished:
                raise internal()
        except ProtocolError as error:
            yield b"".join([*ready, _event(error_body(error))])
            return
    if include_usage:
        ready.append(_event({**base, "choices": [], "usage": usage.body()}))
    yield b"".join([*ready, b"data: [DONE]\n\n"])


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + encoded(body) + b"\n\n"


def encoded(body: object) -> bytes:
    """Compact JSON in ASCII: some clients take U+2028 and similar characters for line ends."""
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


class EventStream(Response):
    """A response of server-sent events.

    However it ends, `items` are closed and the job is given up. `source`, which reads them, would
    not do that if it had never been started.
    """

    media_type = "text/event-stream"

    def __init__(
        self, source: AsyncGenerator[bytes, None], items: AsyncGenerator[list[Item], None]
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        self._source = source
        self._items = items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        async with aclosing(self._items), aclosing(self._source):
            try:
                await unless_gone(receive, self._send(send))
            except (ClientGone, OSError):
                return

    async def _send(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": self.raw_headers},
        )
        async for chunk in self._source:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(receive: Receive, work: Awaitable[_T]) -> _T:
    """The result of `work`. If the client leaves, `work` is cancelled and ClientGone is raised.

    The body of the request must have been read already.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        await _cancel(leaving)
        await _cancel(working)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
