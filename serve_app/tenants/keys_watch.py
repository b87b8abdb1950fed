"""Takes up changes of a keys file while it is in use. Decides nothing about callers."""

import asyncio
import logging
from collections.abc import Callable

from serve_app.tenants.errors import BadKeys
from serve_app.tenants.keyring import Keyring
from serve_app.tenants.keys_file import KeysFile
from serve_app.tenants.keys_store import KeysStore

_log = logging.getLogger(__name__)
FRESH_S = 2.0
"""The file is read again if it was read longer ago than this."""
STALE_S = 4.0
"""A request waits for the reading if the file was read longer ago than this."""
_READING_S = 5.0
"""How long a request waits; then the keys are those read last."""


class KeysWatch:
    """The keys of one file, at most 5 s old when a request comes. For one event loop.

    Reading begins with a request, so nothing runs while there is none. If the file cannot be read,
    or is broken, the keys stay as they were; the log says so once, and `is_broken` until it is
    mended. clock: gives seconds that never go back.   has_records: whether the endpoint writes
    usage records. Raises BadKeys at first.
    """

    def __init__(
        self, store: KeysStore, clock: Callable[[], float], *, has_records: bool = True
    ) -> None:
        self._store = store
        self._clock = clock
        self._text = store.text()
        self._has_records = has_records
        self._keyring = self._parse(self._text)
        self._read_at = clock()
        self._reading: asyncio.Task[None] | None = None
        self._trouble: str | None = None

    @property
    def is_broken(self) -> bool:
        """Whether the file could not be taken up when it was last read."""
        return self._trouble is not None

    async def keyring(self) -> Keyring:
        """The keys that hold now."""
        age = self._clock() - self._read_at
        if age > FRESH_S and self._reading is None:
            self._reading = asyncio.create_task(self._read())
        if age > STALE_S and self._reading is not None:
            await asyncio.wait({self._reading}, timeout=_READING_S)
        return self._keyring

    async def _read(self) -> None:
        try:
            text = await asyncio.to_thread(self._store.text)
            if text != self._text:
                self._keyring = self._parse(text)
                self._text = text
                _log.info("keys file %s: taken up", self._store.address)
            self._trouble = None
        except BadKeys as error:
            if str(error) != self._trouble:
                _log.error("%s; the keys stay as they were", error)
            self._trouble = str(error)
        finally:
            self._read_at = self._clock()
            self._reading = None

    def _parse(self, text: str) -> Keyring:
        where = self._store.address
        return Keyring(KeysFile.parse_served(text, where, has_records=self._has_records))
