"""Results of tasks that outlive a run: runs that ask for other sizes of the same models find them.

They lie under a digest of all that they depend on, the code of this package too. What no run has
used for a week is removed by the next one.
"""

import hashlib
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from consolidation.release.storage import Storage
from consolidation.run.journal import StoredResults
from representation.canonical import canonical_json
from representation.json_text import parse_json

DIRECTORY = "work/studies"
KEPT_FOR = timedelta(days=7)
USED = "used.json"
PACKAGES = ("consolidation", "representation")


class KeptResults(StoredResults):
    """A journal below `work/studies`. is_read_only: finds what is there and writes nothing."""

    def __init__(
        self, storage: Storage, digest: str, now: datetime, *, is_read_only: bool = False
    ) -> None:
        super().__init__(storage, f"{DIRECTORY}/{digest}")
        self._is_read_only = is_read_only
        if not is_read_only:
            used = canonical_json({"used": now.isoformat()})
            storage.write(f"{DIRECTORY}/{digest}/{USED}", used)
            remove_unused(storage, DIRECTORY, USED, now)

    def put(self, key: str, result: Any) -> None:
        if not self._is_read_only:
            super().put(key, result)

    def close(self) -> None:
        """They outlive the run."""


def remove_unused(storage: Storage, directory: str, note: str, now: datetime) -> None:
    """Remove the directories in one whose `note` does not say that they were used within a week.

    note: a JSON file in each, with the time of the last use as `used`.
    """
    for name in storage.names(directory):
        used = _used(storage.read(f"{directory}/{name}/{note}"))
        if used is None or now - used > KEPT_FOR:
            storage.remove(f"{directory}/{name}")


def _used(data: bytes | None) -> datetime | None:
    try:
        return datetime.fromisoformat(parse_json(data or b"")["used"])
    except (ValueError, KeyError, TypeError):
        return None


@cache
def code_digest() -> str:
    """A digest of the files that results are computed by."""
    root = Path(__file__).parents[2]
    found = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in {".py", ".so"}:
                found.update(str(path.relative_to(root)).encode() + b"\0")
                found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
