"""The items of one job at the ingress, in order, whichever streams they come on. Knows no Ray."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Item


class Inbox:
    """A job's first items come on its own stream; the others may overtake them on another one."""

    def __init__(self) -> None:
        self._first: list[Item] = []
        self._items: list[Item] = []
        self._come = asyncio.Event()
        self.is_open = False
        self.has_ended = False

    def open(self, items: list[Item]) -> None:
        """The first items. An error ends the job."""
        self._first = items
        self.is_open = True
        self.has_ended |= items[0]["type"] == "error"
        self._come.set()

    def put(self, items: Sequence[Item] | None) -> None:
        """Further items; None behind the last of them."""
        self._items += items or ()
        self.has_ended |= items is None
        self._come.set()

    def fail(self, error: ProtocolError) -> None:
        """The job cannot go on: the error is its last item, unless it has ended."""
        if not self.is_open:
            self.open([error.to_item()])
        elif not self.has_ended:
            self.put([error.to_item()])
            self.put(None)

    async def batches(self) -> AsyncGenerator[list[Item], None]:
        """The first items alone, then what has come each time. For one reader."""
        while not self.is_open:
            await self._wait()
        yield self._first
        while self._items or not self.has_ended:
            while not self._items and not self.has_ended:
                await self._wait()
            if self._items:
                taken, self._items = self._items, []
                yield taken

    async def _wait(self) -> None:
        await self._come.wait()
        self._come.clear()
