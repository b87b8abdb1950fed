"""Files in a directory of this machine, with its locks."""

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from consolidation.release.errors import StorageFailed
from consolidation.release.storage.interface import File
from consolidation.release.storage.temporary import remove_left, write_whole


class LocalStorage:
    """Files in one directory of this machine."""

    reads_at_once = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    def name(self, path: str) -> str:
        return str(self.root / path)

    def read(self, path: str, num_bytes: int | None = None) -> bytes | None:
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

    def files(self, path: str) -> dict[str, File]:
        found = dict[str, File]()
        for name in self.names(path):
            file = self.root / path / name
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = file.stat()
                if stat.S_ISREG(status.st_mode):
                    at = datetime.fromtimestamp(status.st_mtime, UTC)
                    found[name] = File(status.st_size, at)
        return found

    def remove(self, path: str) -> None:
        target = self.root / path
        try:
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            raise StorageFailed(f"cannot remove {target}: {error.strerror}") from error

    def remove_files(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.remove(path)

    def change(self, path: str, by: Callable[[bytes | None], bytes]) -> bytes:
        directory, slash, name = path.rpartition("/")
        with self._opened(f"{directory}{slash}.{name}.lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = self.read(path)
            now = by(before)
            if now != before:
                self.write(path, now)
            return now

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
