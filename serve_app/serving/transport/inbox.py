"""The items of one job at the ingress, in order, from whatever streams. Knows no Ray."""

import asyncio
from collections.abc import Callable, Sequence

from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Item


class Inbox:
    """`Items` of a job. Its first come on its own stream; the others may overtake them on another.

    One reader waits for them. It is woken only if there is something for it to take.
    """

    def __init__(self, on_close: Callable[["Inbox"], None]) -> None:
        """on_close: called once, when nobody reads any more."""
        self._on_close: Callable[[Inbox], None] | None = on_close
        self._first: list[Item] = []
        self._later: list[Item] = []
        self._waiting: asyncio.Future[None] | None = None
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
        self._wake()

    def put(self, items: Sequence[Item] | None) -> None:
        """More items; None after the last of them."""
        if items is None:
            self._ended.set()
        else:
            self._later += items
        self._wake()

    def fail(self, error: ProtocolError) -> None:
        """The job cannot go on: the error is its last item, unless it has ended."""
        if not self.is_open:
            self.open([error.to_item()])
        elif not self.has_ended:
            self.put([error.to_item()])
            self.put(None)

    def __aiter__(self) -> "Inbox":
        return self

    async def __anext__(self) -> list[Item]:
        """The first items alone, then all that have come each time."""
        while not self._is_ready():
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self._first:
            first, self._first = self._first, []
            return first
        if self._later:
            taken, self._later = self._later, []
            return taken
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nobody reads any more."""
        if self._on_close is not None:
            told, self._on_close = self._on_close, None
            told(self)
        self._ended.set()

    def _is_ready(self) -> bool:
        return self.is_open and bool(self._first or self._later or self.has_ended)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done() and self._is_ready():
            self._waiting.set_result(None)
