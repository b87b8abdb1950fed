"""Turns a job's items into one JSON answer or server-sent events; gives up when the client leaves.

Writes no event and shapes no answer: that is `answers`.
"""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.answers.answer import AnswerFormat, Choice, Head, Usage
from serve_app.api.answers.event_bytes import Events
from serve_app.api.answers.whole_bytes import whole_bytes
from serve_app.api.quiet_body import KEEP_ALIVE, QuietBody
from serve_app.errors import where
from serve_app.logs.about import about
from serve_app.protocol.errors import ProtocolError, internal
from serve_app.protocol.messages import Accepted, Items

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class ClientGone(Exception):
    """The client has closed its connection; nobody is left to answer."""


async def accepted(items: Items) -> Accepted:
    """Waits for the first item of a job. Raises ProtocolError when the job is refused."""
    async for batch in items:
        for item in batch:
            if item["type"] == "accepted":
                return item
            if item["type"] == "error":
                raise ProtocolError.of_item(item)
    raise internal()


async def collect(
    items: Items, form: AnswerFormat, head: Head, usage: Usage, choices: int
) -> bytes:
    """The whole answer, as JSON. Raises ProtocolError when the engine fails."""
    collected = [Choice() for _ in range(choices)]
    async for batch in items:
        for item in batch:
            if item["type"] == "error":
                raise ProtocolError.of_item(item)
            if item["type"] == "again":
                usage.void()
                collected = [Choice() for _ in range(choices)]
            if item["type"] == "piece":
                usage.add(item)
                collected[item["choice"]].pieces.append(item)
    if any(choice.finish is None for choice in collected):
        raise internal()
    shown = sum(len(piece["tokens"]) for choice in collected for piece in choice.pieces)
    return await whole_bytes(partial(form.whole, head, collected, usage), shown)


class EventStream(Response):
    """A response of server-sent events. However it ends, `items` are closed.

    keep_alive_s: while nothing is to be said for so long, `keep_alive` says that it is there.
    request: whose stream it is, for the log.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Events,
        items: Items,
        keep_alive_s: float,
        keep_alive: bytes = KEEP_ALIVE,
        request: str | None = None,
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        self._events = events
        self._items = items
        self._keep_alive_s = keep_alive_s
        self._keep_alive = keep_alive
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        async with aclosing(self._items):
            try:
                await unless_gone(receive, self._send(send))
            except (ClientGone, OSError):
                return

    async def _send(self, send: Send) -> None:
        """Whatever breaks, the stream ends with an event that says so."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(QuietBody(send, self._keep_alive_s, self._keep_alive)) as body:
            try:
                await self._write(body)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  the client has its status: an event tells it
                told = about(request=self._request)
                _log.error("a stream failed: %s", where(error), extra=told)
                self._events.fail()
        await send({"type": "http.response.body", "body": self._events.end(), "more_body": False})

    async def _write(self, body: QuietBody) -> None:
        """One write for all that has come, because a write costs more than an event."""
        events = self._events
        written = events.opening()
        if written:
            await body.write(written)
        async for batch in self._items:
            written = events.add(batch)
            if written:
                await body.write(written)
            if events.have_ended:
                return


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
        del leaving, working  # the exception leads here, and must not be led back to


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
