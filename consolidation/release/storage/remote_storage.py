"""Files at an fsspec address. Which file system that is, `filesystems` decides."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from consolidation.release.errors import NoBucket, StorageFailed
from consolidation.release.storage.conditions import Moved, version, write_if
from consolidation.release.storage.filesystems import WITH_BUCKETS, asked_once, protocols
from consolidation.release.storage.interface import File

AT_ONCE = 1000
"""How many files are removed by one request, as S3 takes them."""
PIECE_BYTES = 8 << 20
"""Of a file that is read in pieces at once. One request each."""
CHANGES_AT_ONCE = 16
"""How often a change begins again, as another one was faster, before it is given up."""
WRITTEN = ("LastModified", "mtime", "updated", "last_modified", "created")
"""What file systems of S3, Google, Azure and memory call the time of a file in a listing."""


class RemoteStorage:
    """Files at one fsspec address. Has no locks, but changes on a condition."""

    reads_at_once = 16

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.url = url.rstrip("/")

    def name(self, path: str) -> str:
        return f"{self.url}/{path}"

    def read(self, path: str, num_bytes: int | None = None) -> bytes | None:
        full = self._full(path)
        with self._trouble("read", path):
            try:
                pieces = self._pieces(full, num_bytes or 0)
                return bytes(self.filesystem.cat_file(full)) if pieces is None else pieces
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _pieces(self, full: str, num_bytes: int) -> bytes | None:
        """A large file, read in pieces at once; None for a small one, or if a piece is not there.

        The last piece asks for a byte more: a file that is too long is not taken for a right one.
        """
        if num_bytes <= PIECE_BYTES:
            return None
        begins = range(0, num_bytes, PIECE_BYTES)
        ends = [*begins[1:], num_bytes + 1]
        found = self.filesystem.cat_ranges([full] * len(begins), list(begins), ends)
        return None if any(isinstance(one, Exception) for one in found) else b"".join(found)

    def size(self, path: str) -> int | None:
        with self._trouble("read", path):
            # The file system may cache listings; another process may have written since.
            self.filesystem.invalidate_cache()
            try:
                return int(self.filesystem.info(self._full(path))["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, path: str, data: bytes) -> None:
        with self._trouble("write", path):
            full = self._full(path)
            self._make_directory(full)
            self.filesystem.pipe_file(full, data)

    def names(self, path: str) -> list[str]:
        with self._trouble("list", path):
            self.filesystem.invalidate_cache()
            try:
                found = self.filesystem.ls(self._full(path), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(_last(name) for name in found)

    def files(self, path: str) -> dict[str, File]:
        with self._trouble("list", path):
            self.filesystem.invalidate_cache()
            try:
                found = self.filesystem.ls(self._full(path), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
            rows = {_last(row["name"]): row for row in found if row["type"] == "file"}
            return {
                name: File(int(row["size"]), _written(row)) for name, row in sorted(rows.items())
            }

    def remove(self, path: str) -> None:
        with self._trouble("remove", path), contextlib.suppress(FileNotFoundError):
            self.filesystem.rm(self._full(path), recursive=True)

    def remove_files(self, paths: Sequence[str]) -> None:
        for begin in range(0, len(paths), AT_ONCE):
            some = paths[begin : begin + AT_ONCE]
            with self._trouble("remove", some[0]), contextlib.suppress(FileNotFoundError):
                self.filesystem.rm([self._full(path) for path in some])

    def change(self, path: str, by: Callable[[bytes | None], bytes]) -> bytes:
        full = self._full(path)
        now: bytes | None = None
        for _ in range(CHANGES_AT_ONCE):
            with self._trouble("read", path):
                was = version(self.filesystem, full)
            before = None if was is None else self.read(path)
            if now is not None and now == before:
                return now  # it was written, but the answer was lost
            now = by(before)
            if now == before:
                return now
            with self._trouble("write", path), contextlib.suppress(Moved):
                self._make_directory(full)
                write_if(self.filesystem, full, now, was)
                return now
        raise StorageFailed(f"cannot write {self.name(path)}: others changed it all the time")

    def share(self, path: str) -> AbstractContextManager[Callable[[], bool]]:
        return contextlib.nullcontext(lambda: True)

    def tidy(self) -> None:
        """What is not complete is nowhere."""

    def check(self) -> None:
        with self._trouble("list", ""):
            try:
                asked_once(self.filesystem).ls(self.root, detail=False)
            except NotADirectoryError:
                return
            except FileNotFoundError as error:
                # Of what it does not find in a bucket, a file system gives the path.
                is_path = str(error).strip("/") in self.root
                if not is_path and not WITH_BUCKETS.isdisjoint(protocols(self.filesystem)):
                    raise NoBucket(f"there is nothing at {self.url} ({error})") from error

    def _make_directory(self, full: str) -> None:
        if WITH_BUCKETS.isdisjoint(protocols(self.filesystem)):
            self.filesystem.makedirs(full.rsplit("/", 1)[0], exist_ok=True)

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    @contextlib.contextmanager
    def _trouble(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except (StorageFailed, NoBucket):
            raise
        except Exception as error:  # every protocol raises its own classes
            reason = f"{type(error).__name__}: {error}"
            raise StorageFailed(f"cannot {verb} {self.name(path)}: {reason}") from error


def _last(name: str) -> str:
    return str(name).rstrip("/").rsplit("/", 1)[-1]


def _written(row: Mapping[str, Any]) -> datetime:
    """When a file was written, by a row of fsspec's listing."""
    at = next((row[key] for key in WRITTEN if row.get(key) is not None), None)
    if at is None:
        raise ValueError("the storage does not say when files were written")
    if isinstance(at, (int, float)):
        return datetime.fromtimestamp(at, UTC)
    found = datetime.fromisoformat(at) if isinstance(at, str) else at
    return found if found.tzinfo else found.replace(tzinfo=UTC)
