"""The items of one job at the ingress, in order, from whatever streams. Knows no Ray."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Item
from serve_app.serving.transport.pending import Pending


class Inbox:
    """A job's first items come on its own stream; the others may overtake them on another one."""

    def __init__(self) -> None:
        self._first: list[Item] = []
        self._items = Pending[Item]()
        self._ended = asyncio.Event()
        self.is_open = False

    @property
    def has_ended(self) -> bool:
        """Whether nothing more follows."""
        return self._ended.is_set()

    async def ended(self, within_s: float) -> bool:
        """Wait until nothing more follows; False if that takes longer."""
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def open(self, items: list[Item]) -> None:
        """The first items. An error ends the job."""
        self._first = items
        self.is_open = True
        if items[0]["type"] == "error":
            self._ended.set()
        self._items.put()

    def put(self, items: Sequence[Item] | None) -> None:
        """More items; None after the last of them."""
        if items is None:
            self._ended.set()
        self._items.put(items or ())

    def fail(self, error: ProtocolError) -> None:
        """The job cannot go on: the error is its last item, unless it has ended."""
        if not self.is_open:
            self.open([error.to_item()])
        elif not self.has_ended:
            self.put([error.to_item()])
            self.put(None)

    def close(self) -> None:
        """Nobody reads any more."""
        self._ended.set()

    async def batches(self) -> AsyncGenerator[list[Item], None]:
        """Yields the first items alone, then all that have come each time. For one reader."""
        early: list[Item] = []
        while not self.is_open:
            early += await self._items.take()
        yield self._first
        if early:
            yield early
        while self._items or not self.has_ended:
            taken = await self._items.take()
            if taken:
                yield taken
