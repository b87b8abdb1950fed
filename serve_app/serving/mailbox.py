"""From the engine's thread to the event loop: events in, in order, many at a time."""

import asyncio
from collections import deque

from serve_app.engine.request import Event


class Mailbox:
    """`put` is called on the engine's thread, `take` on the loop that made the mailbox."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._filled = asyncio.Event()

    def put(self, event: Event) -> None:
        """Never raises: a reader that is gone must not stop the engine."""
        self._events.append(event)
        if len(self._events) == 1 and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._filled.set)
            except RuntimeError:  # closed since we looked
                self._events.clear()

    async def take(self) -> list[Event]:
        """Everything that has come; waits for something."""
        await self._filled.wait()
        self._filled.clear()
        taken = []
        while self._events:
            taken.append(self._events.popleft())
        return taken
