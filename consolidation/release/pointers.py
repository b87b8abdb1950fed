"""Small files that say what is served now, each changed as a whole. Knows no releases."""

from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from consolidation.release.errors import Damaged, first_fault
from consolidation.release.storage import Storage
from representation.canonical import canonical_json

M = TypeVar("M", bound=BaseModel)


class Pointers(Generic[M]):
    """The files of one kind in one directory: `<name>.json`.

    Of two changes at once, one is made of what the other has written, as far as the storage can
    (see `Storage.change`). Readers never see half a file.
    """

    def __init__(self, storage: Storage, directory: str, kind: type[M], what: str) -> None:
        """what: names a file of this kind in errors, as "a channel"."""
        self._storage = storage
        self._directory = directory
        self._kind = kind
        self._what = what

    def read(self, name: str) -> M | None:
        """What the file says; None if there is none. Raises `Damaged`."""
        data = self._storage.read(self._path(name))
        return None if data is None else self._parsed(name, data)

    def change(self, name: str, by: Callable[[M | None], M]) -> M:
        """Replace what the file says. If `by` raises or returns what it got, nothing is written.

        -> what it says now
        """

        def written(data: bytes | None) -> bytes:
            now = by(None if data is None else self._parsed(name, data))
            return canonical_json(now.model_dump(mode="json"))

        return self._parsed(name, self._storage.change(self._path(name), written))

    def _parsed(self, name: str, data: bytes) -> M:
        try:
            return self._kind.model_validate_json(data)
        except ValidationError as error:
            where = f"{self._storage.name(self._path(name))} is not {self._what}"
            raise Damaged(f"{where}: {first_fault(error)}") from error

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        found = self._storage.names(self._directory)
        return [name.removesuffix(".json") for name in found if name.endswith(".json")]

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}.json"
