"""What a registry asks of the place where its files are.

Paths are relative, with forward slashes. Writing replaces the whole file: in a local directory
atomically (a temporary file next to it, then a rename), elsewhere as one put, which object stores
make visible only when it is complete.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class File:
    """A file as a listing shows it. at: when it was last written."""

    num_bytes: int
    at: datetime


class Storage(Protocol):
    """Whole files by relative path. Every method raises `StorageFailed` if it fails."""

    @property
    def reads_at_once(self) -> int:
        """How many threads may read, so that the storage gives what it can."""
        ...

    def name(self, path: str) -> str:
        """The file's full name, for people."""
        ...

    def read(self, path: str, num_bytes: int | None = None) -> bytes | None:
        """The file's content; None if there is no file.

        num_bytes: its size, if it is known: a large file is then read in pieces at once.
        """
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

    def files(self, path: str) -> dict[str, File]:
        """The files in a directory by name, sorted; empty if there is no such directory."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or a directory and everything in it; does nothing if there is none."""
        ...

    def remove_files(self, paths: Sequence[str]) -> None:
        """Remove files, in few requests where the storage can. Some may be gone already."""
        ...

    def change(self, path: str, by: Callable[[bytes | None], bytes]) -> bytes:
        """Replace a file by what `by` makes of its content; of None if there is no file.

        If `by` raises or returns what it got, nothing is written. Of two changes at once, one is
        made of what the other has written: `by` is called again, or waits. That holds for local
        directories and for stores that write on a condition, as S3, Google's and Azure's do.
        -> its content now
        """
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
