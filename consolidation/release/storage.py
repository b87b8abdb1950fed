"""Where a registry's files are: a local directory, or any fsspec address. Knows no releases.

Paths are relative, with forward slashes. Writing replaces the whole file: in a local directory
atomically (a temporary file next to it, then a rename), elsewhere as one put, which object stores
make visible only when it is complete.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol

import fsspec

from consolidation.release.errors import NoBucket, StorageFailed
from consolidation.release.temporary import remove_left, write_whole

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""The extra of this package that brings a protocol."""
WITH_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs"}
"""Protocols without directories: to make one would make the bucket, however it is misspelt."""
S3_TRIES = 2
"""How often s3fs asks for what botocore gave up. botocore itself asks five times, for 15 s each."""


class Storage(Protocol):
    """Whole files by relative path. Every method raises `StorageFailed` if it fails."""

    def name(self, path: str) -> str:
        """The file's full name, for people."""
        ...

    def read(self, path: str) -> bytes | None:
        """The file's content; None if there is no file."""
        ...

    def size(self, path: str) -> int | None:
        """The file's size in bytes; None if there is no file."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Replace the file."""
        ...

    def names(self, path: str) -> list[str]:
        """Names of what is in a directory, sorted; empty if there is no such directory."""
        ...

    def remove(self, path: str) -> None:
        """Remove a directory and everything in it; does nothing if there is none."""
        ...

    def lock(self, path: str) -> AbstractContextManager[None]:
        """Keep other processes out if the storage can do that; else do nothing."""
        ...

    def share(self, path: str) -> AbstractContextManager[Callable[[], bool]]:
        """Tell other processes that this one uses what belongs to `path`, if the storage can.

        Yields what is to be called once at the end: whether no other process uses it. Others that
        come wait until the block ends.
        """
        ...

    def tidy(self) -> None:
        """Remove what processes that were killed while they wrote have left."""
        ...

    def check(self) -> None:
        """Raise `NoBucket` if files can be neither read nor written, as their bucket is missing.

        Asks once: a server that does not answer is given up sooner than in other methods.
        """
        ...


class LocalStorage:
    """Files in one directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def name(self, path: str) -> str:
        return str(self.root / path)

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageFailed(f"cannot read {self.name(path)}: {error.strerror}") from error

    def size(self, path: str) -> int | None:
        try:
            return (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageFailed(f"cannot read {self.name(path)}: {error.strerror}") from error

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, data)
        except OSError as error:
            raise StorageFailed(f"cannot write {target}: {error.strerror}") from error

    def names(self, path: str) -> list[str]:
        try:
            return sorted(p.name for p in (self.root / path).iterdir() if p.name[0] != ".")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StorageFailed(f"cannot list {self.name(path)}: {error.strerror}") from error

    def remove(self, path: str) -> None:
        shutil.rmtree(self.root / path, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, path: str) -> Iterator[None]:
        with self._opened(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def share(self, path: str) -> Iterator[Callable[[], bool]]:
        target = self.root / path
        is_alone = False

        def alone() -> bool:
            nonlocal is_alone
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_alone = True
            return is_alone

        while True:
            with self._opened(path) as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                if not _is_at(file, target):
                    continue  # it was removed before it was locked
                try:
                    yield alone
                finally:
                    if is_alone:
                        target.unlink(missing_ok=True)
                return

    def tidy(self) -> None:
        remove_left(self.root)

    def check(self) -> None:
        """Directories are made when they are written to."""

    def _opened(self, path: str) -> IO[str]:
        target = self.root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            return target.open("a")
        except OSError as error:
            raise StorageFailed(f"cannot lock {target}: {error.strerror}") from error


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


class RemoteStorage:
    """Files at one fsspec address. Has no locks."""

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        self.url = url.rstrip("/")

    def name(self, path: str) -> str:
        return f"{self.url}/{path}"

    def read(self, path: str) -> bytes | None:
        with self._trouble("read", path):
            try:
                return bytes(self.filesystem.cat_file(self._full(path)))
            except (FileNotFoundError, NotADirectoryError):
                return None

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
            if WITH_BUCKETS.isdisjoint(_protocols(self.filesystem)):
                self.filesystem.makedirs(full.rsplit("/", 1)[0], exist_ok=True)
            self.filesystem.pipe_file(full, data)

    def names(self, path: str) -> list[str]:
        with self._trouble("list", path):
            self.filesystem.invalidate_cache()
            try:
                found = self.filesystem.ls(self._full(path), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)

    def remove(self, path: str) -> None:
        with self._trouble("remove", path), contextlib.suppress(FileNotFoundError):
            self.filesystem.rm(self._full(path), recursive=True)

    def lock(self, path: str) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

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
                if not is_path and not WITH_BUCKETS.isdisjoint(_protocols(self.filesystem)):
                    raise NoBucket(f"there is nothing at {self.url} ({error})") from error

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


def open_storage(url: str) -> Storage:
    """The storage at a path or fsspec address. Raises `StorageFailed` for one unknown to fsspec."""
    try:
        filesystem, root = open_filesystem(url)
    except ImportError as error:
        raise StorageFailed(missing_package(url, error)) from error
    except (ValueError, OSError) as error:
        raise StorageFailed(f"cannot open {url}: {error}") from error
    if "file" in _protocols(filesystem):
        return LocalStorage(Path(root))
    return RemoteStorage(filesystem, str(root), url)


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of an fsspec address, and the path in it. Raises what its package raises."""
    filesystem, root = fsspec.core.url_to_fs(url)
    if "s3" in _protocols(filesystem):
        filesystem.retries = S3_TRIES
    return filesystem, str(root)


def asked_once(filesystem: Any) -> Any:
    """The same, for a first question: that nobody answers is known after half a minute."""
    if "s3" not in _protocols(filesystem):
        return filesystem
    options = dict(filesystem.storage_options)
    options["config_kwargs"] = {
        **options.get("config_kwargs", {}),
        "retries": {"total_max_attempts": S3_TRIES},
    }
    found = type(filesystem)(**options)
    found.retries = 1
    return found


def missing_package(url: str, error: ImportError) -> str:
    """What to install for an address, in words."""
    extra = EXTRAS.get(url.partition("://")[0])
    how = f"pip install 'expertpool[{extra}]'" if extra else str(error)
    return f"{url} needs a package that is not installed: {how}"


def _protocols(filesystem: Any) -> tuple[str, ...]:
    found = filesystem.protocol
    return (found,) if isinstance(found, str) else tuple(found)
