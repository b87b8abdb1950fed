"""About a job that was sent and is not answered: is there an engine at all? Knows no Ray.

Ray Serve keeps what it cannot send to a replica for as long as there is none, and says nothing.
"""

import asyncio
import contextvars
from collections.abc import Callable

from serve_app.serving.transport.engine_watch import EngineWatch

OPENS_S = 0.8
"""Who has not heard of the engine for so long finds out whether it is there."""


class Doubt:
    """Begins when a job is sent. Each `OPENS_S`, the watch is asked, until the engine answers the
    job (`end`), or is away: then `refuse` is called.
    """

    def __init__(self, watch: EngineWatch, refuse: Callable[[], None]) -> None:
        self._watch = watch
        self._refuse = refuse
        self._asking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(OPENS_S, self._begin)

    def end(self) -> None:
        """There is no doubt any more."""
        self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def _begin(self) -> None:
        # In its own context: when a client leaves, Serve cancels what its request has called.
        self._asking = self._loop.create_task(self._ask(), context=contextvars.Context())

    async def _ask(self) -> None:
        while True:
            self._watch.lost()
            if not await self._watch.known():
                self._refuse()
                return
            await asyncio.sleep(OPENS_S)
