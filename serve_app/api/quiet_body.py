"""The body of a stream, which says that it is there while it has nothing else to say."""

import asyncio
import contextlib
from time import monotonic

from starlette.types import Send

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment of server-sent events, which readers leave out."""


class QuietBody:
    """Writes the parts of one body, for one writer. Must be closed before the last part is sent.

    keep_alive: what it says when nothing has been written for `keep_alive_s`.

    One timer looks from time to time when something was written last, so a write costs no more.
    """

    def __init__(self, send: Send, keep_alive_s: float, keep_alive: bytes = KEEP_ALIVE) -> None:
        self._send = send
        self._keep_alive = keep_alive
        self._keep_alive_s = keep_alive_s
        self._written_at = monotonic()
        self._is_writing = False
        self._comment: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(keep_alive_s, self._look)

    async def write(self, body: bytes) -> None:
        """Returns when more may be written."""
        if self._comment is not None:
            await asyncio.wait({self._comment})
        self._written_at = monotonic()
        self._is_writing = True
        try:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            self._is_writing = False

    async def aclose(self) -> None:
        """No more comments."""
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
            await asyncio.wait({self._comment})

    def _look(self) -> None:
        now, loop = monotonic(), asyncio.get_running_loop()
        left = self._written_at + self._keep_alive_s - now
        if left <= 0:
            if not self._is_writing and self._comment is None:
                self._comment = loop.create_task(self._write_comment())
            self._written_at, left = now, self._keep_alive_s
        self._timer = loop.call_later(left, self._look)

    async def _write_comment(self) -> None:
        try:
            with contextlib.suppress(OSError):  # the client has left, as the next write will find
                await self._send(
                    {"type": "http.response.body", "body": self._keep_alive, "more_body": True}
                )
        finally:
            self._comment = None
