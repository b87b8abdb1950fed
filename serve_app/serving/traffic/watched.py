"""A file beside a channel, as it was when it could last be read. Knows no releases."""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Watched(Generic[T]):
    """What such a file says, and why it cannot be read now.

    read: channel -> what the file says, None without a file; blocks, and is called on a thread.
    what: names it in the log, as "the aliases".
    """

    def __init__(self, read: Callable[[str], T | None], what: str) -> None:
        self._read = read
        self._what = what
        self._channel: str | None = None
        self.value: T | None = None
        self.trouble: str | None = None

    async def look(self, channel: str | None) -> T | None:
        """Read it again. If that fails, what it said last stays, and the log says so once.

        channel: None says nothing, as for a pinned release.
        """
        if channel != self._channel:
            self._channel, self.value, self.trouble = channel, None, None
        if channel is None:
            return None
        try:
            self.value = await asyncio.to_thread(self._read, channel)
            self.trouble = None
        except Exception as error:  # noqa: BLE001  storage may fail in any way; it is asked again
            trouble = f"{self._what} of channel '{channel}' cannot be taken up: {error}"
            if trouble != self.trouble:
                _log.warning("%s; what was said last holds", trouble)
            self.trouble = trouble
        return self.value
