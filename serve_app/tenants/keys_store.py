"""Reads and changes the keys file at an address. What it says: `keys_file.py`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from consolidation.release.errors import StorageFailed
from consolidation.release.storage import Storage, open_storage
from serve_app.tenants.errors import BadKeys
from serve_app.tenants.keys_file import KeysFile


class KeysStore:
    """One keys file, at a path or an fsspec address. Methods raise BadKeys, which names it."""

    def __init__(self, address: str) -> None:
        self.address = address
        directory, slash, self._name = address.rpartition("/")
        if not self._name:
            raise BadKeys(f"keys file {address!r}: that is not the name of a file")
        with _told(address):
            self._storage: Storage = open_storage(directory or slash or ".")

    def read(self) -> KeysFile:
        """What the file says."""
        return KeysFile.parse(self.text(), self.address)

    def read_served(self, *, has_records: bool) -> KeysFile:
        """What the file says to an endpoint: see `KeysFile.parse_served`."""
        return KeysFile.parse_served(self.text(), self.address, has_records=has_records)

    def text(self) -> str:
        """The whole file. An empty one is broken: it is what a full disk or a torn copy leaves,
        and would lock out everybody; `tenants: {}` says that there are none.
        """
        found = self._content()
        if found is None:
            raise BadKeys(f"keys file {self.address}: there is no such file")
        if not found.strip():
            raise BadKeys(f"keys file {self.address}: it is empty")
        return found

    def change(self, by: Callable[[KeysFile], KeysFile]) -> KeysFile:
        """Replace what the file says, or an empty file if there is none, all at once.

        Of two changes at once, one is made of what the other has written. If `by` raises, nothing
        is changed.
        -> what it says now
        """

        def written(data: bytes | None) -> bytes:
            return by(self._parsed(data)).text().encode()

        with _told(self.address):
            return self._parsed(self._storage.change(self._name, written))

    def _parsed(self, data: bytes | None) -> KeysFile:
        return KeysFile.parse(self._decoded(data) or "", self.address)

    def _content(self) -> str | None:
        with _told(self.address):
            return self._decoded(self._storage.read(self._name))

    def _decoded(self, found: bytes | None) -> str | None:
        try:
            return None if found is None else found.decode()
        except UnicodeDecodeError as error:
            raise BadKeys(f"keys file {self.address}: it is not UTF-8: {error.reason}") from error


@contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except StorageFailed as error:
        raise BadKeys(f"keys file {address}: {error}") from error
