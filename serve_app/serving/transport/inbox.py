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
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = False
        self.release: str | None = None
        """Of those who have accepted the job, once they have."""
        self.has_answer = False
        """Whether anything of an answer has come, or of the error that ended it."""
        self.has_ended = False
        """Whether nothing more follows."""

    async def ended(self, within_s: float) -> bool:
        """Wait until nothing more follows; False if that takes longer."""
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def open(self, items: list[Item]) -> None:
        """The first items. An error ends the job. Nothing changes if it is open already."""
        if self.is_open:
            return
        self._first = items
        if items[0]["type"] == "accepted":
            self.release = items[0]["release"]
        self.is_open = True
        if items[0]["type"] == "error":
            self._end()
        self._wake()

    def put(self, items: Sequence[Item] | None) -> None:
        """More items; None after the last of them."""
        if items is None:
            self._end()
        elif items:
            self._later += items
            self.has_answer = True
        else:
            return
        if self.is_open:
            self._wake()

    def begin_again(self) -> None:
        """What has come of the answer is void. To be called when it was accepted."""
        self._later = [{"type": "again"}]
        self.has_answer = False
        self._wake()

    def fail(self, error: ProtocolError) -> None:
        """The job cannot go on: the error is its last item, unless it has ended."""
        if not self.is_open:
            self.open([error.to_item()])
        elif not self.has_ended:
            self.put([error.to_item()])
            self.put(None)

    def fail_after(self, seconds: float, error: ProtocolError) -> None:
        """Fail then, unless it has ended."""
        self._timer = self._loop.call_later(seconds, self.fail, error)

    def __aiter__(self) -> "Inbox":
        return self

    async def __anext__(self) -> list[Item]:
        """The first items alone, then all that have come each time."""
        while True:
            if self.is_open:
                if self._first:
                    first, self._first = self._first, []
                    return first
                if self._later:
                    taken, self._later = self._later, []
                    return taken
                if self.has_ended:
                    raise StopAsyncIteration
            self._waiting = self._loop.create_future()
            await self._waiting

    async def aclose(self) -> None:
        """Nobody reads any more."""
        if self._on_close is not None:
            told, self._on_close = self._on_close, None
            told(self)
        self._end()

    def _end(self) -> None:
        self.has_ended = True
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
