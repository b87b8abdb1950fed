"""Whether the engine's process is there, and when it will be. Knows no Ray and no job.

Nothing is asked while all is well: only when something that was asked has failed.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from time import monotonic

_log = logging.getLogger(__name__)
_FIRST_S = 8.0
"""How long it is expected to be away, where nobody has said how long a start takes."""
_ANSWER_S = 1.0
"""Whoever does not answer in this time is not there."""
_NOTICED_S = 1.0
"""How long it may take until Ray Serve notices, and starts another."""
_PAUSE_S = 0.1


class EngineWatch:
    """From a failure on, asks until there is an answer. For one event loop.

    serves: whether the engine answers requests; may raise, and may take for ever.
    """

    def __init__(self, serves: Callable[[], Awaitable[bool]]) -> None:
        self._serves = serves
        self._watching: asyncio.Task[None] | None = None
        self._is_known = asyncio.Event()
        self._lost_at = 0.0
        self._expected_s = _FIRST_S
        self._has_returned = False
        self.was_there = False
        """Whether it has ever been seen here."""
        self.is_away = False

    def expect(self, start_s: float) -> None:
        """Its last start took so long: so should the next one. What was seen here goes before."""
        self.was_there = True
        if not self._has_returned:
            self._expected_s = start_s + _NOTICED_S

    @property
    def retry_after_s(self) -> float:
        """When to ask again: what is left if this time is like the last one, or else soon."""
        return max(1.0, self._lost_at + self._expected_s - monotonic())

    def lost(self) -> None:
        """What was asked has failed. Returns at once."""
        if self._watching is None:
            self._lost_at = monotonic()
            self._is_known.clear()
            # In its own context: when a client leaves, Serve cancels what its request has called.
            loop = asyncio.get_running_loop()
            self._watching = loop.create_task(self._watch(), context=contextvars.Context())

    async def known(self) -> bool:
        """Whether it is there, as soon as that is known."""
        if self._watching is not None:
            await self._is_known.wait()
        return not self.is_away

    async def back(self, within_s: float) -> bool:
        """Wait until it is there; False if that takes longer."""
        if self._watching is not None:
            await asyncio.wait({self._watching}, timeout=within_s)
        return self._watching is None

    async def _watch(self) -> None:
        is_told = False
        try:
            while not await self._is_there():
                if not self.is_away and self.was_there:  # else it is starting
                    _log.warning("the engine does not answer: requests are refused until it does")
                    is_told = True
                self.is_away = True
                self._is_known.set()
                await asyncio.sleep(_PAUSE_S)
            if self.is_away:
                self._expected_s = monotonic() - self._lost_at
                self._has_returned = True
                if is_told:
                    _log.warning("the engine is back after %.1f s", self._expected_s)
                self.was_there = True
        finally:
            self.is_away = False
            self._is_known.set()
            self._watching = None

    async def _is_there(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._serves()
        except Exception:  # noqa: BLE001  whatever it is, the engine is not there
            return False
