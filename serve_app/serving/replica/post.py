"""From the engine's thread to the event loop: events, many at a time, and single results."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from serve_app.engine.request import Event

Hear = Callable[[Event], None]
_T = TypeVar("_T")


class Post:
    """Takes the events of all requests across at once: the loop is woken once for many.

    Waking it is a system call, and made between two steps it would hold up the next.
    """

    def __init__(self) -> None:
        self._sent: deque[tuple[Hear, Event]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def to(self, hear: Hear) -> Hear:
        """What to call on the engine's thread, so that `hear` is called on this loop.

        To be called on the loop, always the same one.
        """
        self._loop = asyncio.get_running_loop()
        return partial(self._send, hear)

    def _send(self, hear: Hear, event: Event) -> None:
        """From any thread. Never raises: a reader that is gone must not stop the engine."""
        self._sent.append((hear, event))
        if len(self._sent) > 1 or self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # closed since we looked
            self._sent.clear()

    def _deliver(self) -> None:
        while self._sent:
            hear, event = self._sent.popleft()
            hear(event)


async def outcome(promised: "Future[_T]") -> _T:
    """The result of `promised`. Cancelling this does not cancel `promised`, because its maker will
    still set it, and setting a cancelled future raises.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    def tell(_: "Future[_T]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle)

    promised.add_done_callback(tell)
    await done
    return promised.result()
