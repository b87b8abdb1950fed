"""From the engine's thread to the event loop: events in, in order, many at a time."""

import asyncio
from collections import deque

from serve_app.engine.request import Event
from serve_app.serving.transport.pending import Pending


class Post:
    """Takes the events of all requests across at once: the loop is woken once for many.

    Waking it is a system call, and made between two steps it would hold up the next.
    """

    def __init__(self) -> None:
        self._sent: deque[tuple[Mailbox, Event]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def mailbox(self) -> "Mailbox":
        """For one reader. To be called on the loop that will read, always the same one."""
        self._loop = asyncio.get_running_loop()
        return Mailbox(self)

    def send(self, mailbox: "Mailbox", event: Event) -> None:
        """From any thread. Never raises: a reader that is gone must not stop the engine."""
        self._sent.append((mailbox, event))
        if len(self._sent) > 1 or self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # closed since we looked
            self._sent.clear()

    def _deliver(self) -> None:
        while self._sent:
            mailbox, event = self._sent.popleft()
            mailbox.receive(event)


class Mailbox:
    """`put` is called on the engine's thread, `take` on the loop that made the mailbox."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._events = Pending[Event]()

    def put(self, event: Event) -> None:
        self._post.send(self, event)

    def receive(self, event: Event) -> None:
        """On the loop; `Post` calls it."""
        self._events.put([event])

    async def take(self) -> list[Event]:
        """Everything that has come; waits for something."""
        return await self._events.take()
