"""Files of a location elsewhere, which are brought to a directory. Decides not which."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

OnBytes = Callable[[int], None]
"""Told how many bytes more have arrived; fewer than none where some have to come again."""


class Remote(Protocol):
    """The files of one version of a location. `sizes`: bytes by name, relative, with `/`.

    directory: where the files are once they are here; it need not exist before.
    """

    @property
    def called(self) -> str:
        """What people call it."""
        ...

    @property
    def cache(self) -> Path:
        """The directory for all that is brought in this way."""
        ...

    @property
    def directory(self) -> Path: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def is_here(self, name: str) -> bool:
        """Whether fetching a file takes no room, and next to no time."""
        ...

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes of a file from where it is. Raises `Refused`, `RunFailed`."""
        ...

    def fetch(self, name: str, on_bytes: OnBytes) -> None:
        """Bring a file, as far as it is not here. Several threads bring several files at once.

        Raises `Refused`, `RunFailed`.
        """
        ...
