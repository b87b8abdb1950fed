"""Writes usage records where they are kept, without making requests wait. Sums nothing.

    2026-11-28/22-58-4f1c.jsonl     a minute's records of one ingress, by when they were written

A file is replaced as a whole while its minute lasts, which every storage can do, and never changed
after that.
"""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from consolidation.release.errors import StorageFailed
from consolidation.release.storage import open_storage
from serve_app.tenants.usage_record import UsageRecord

_log = logging.getLogger(__name__)
EVERY_S = 3.0
"""How often records are written; a process that is killed loses no older ones."""
MOST_KEPT = 200_000
"""Records that are kept while nothing can be written; then the oldest go."""


class UsageLog:
    """At a directory or an fsspec address, from one process.

    name: tells this process's files from others'.   clock: gives Unix seconds.
    Raises StorageFailed if the address cannot be used.
    """

    def __init__(self, address: str, name: str, clock: Callable[[], float]) -> None:
        self._storage = open_storage(address)
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._new: list[str] = []
        self._path = ""
        self._lines: list[str] = []
        self._is_failing = False
        self.num_lost = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_often, daemon=True, name="usage")
        self._thread.start()

    def add(self, record: UsageRecord) -> None:
        """Returns at once."""
        line = record.line()
        with self._lock:
            self._new.append(line)

    def flush(self) -> None:
        """Returns when everything is written, or is kept because it cannot be."""
        with self._writing:
            self._write()

    def close(self) -> None:
        """Flush, and write nothing more."""
        self._ended.set()
        self._thread.join()
        self.flush()

    def _write_often(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.flush()

    def _write(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        if not new:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        path = f"{now:%Y-%m-%d}/{now:%H-%M}-{self._name}.jsonl"
        if path != self._path:
            self._path, self._lines = path, []
        try:
            self._storage.write(path, "".join([*self._lines, *new]).encode())
            self._lines += new
            self._is_failing = False
        except StorageFailed as error:
            if not self._is_failing:
                _log.error("usage records are kept in memory: %s", error)
            self._is_failing = True
            self._keep(new)

    def _keep(self, lines: list[str]) -> None:
        """For the next time."""
        with self._lock:
            kept = [*lines, *self._new]
            self.num_lost += max(0, len(kept) - MOST_KEPT)
            self._new = kept[-MOST_KEPT:]
