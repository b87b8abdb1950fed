"""Channels: named pointers to releases, moved by compare-and-swap. Reads no manifest."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from consolidation.release.errors import ChannelMoved, Damaged
from consolidation.release.manifest import canonical_json
from consolidation.release.storage import Storage

DIRECTORY = "channels"


class Channel(BaseModel):
    """Where a channel points, where it pointed before, and when it was moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    previous: str | None
    at: datetime


class Anything:
    """Nothing in particular is expected of the channel."""


ANYTHING = Anything()


class ChannelStore:
    """The channels of one family.

    In a local directory a move takes a lock file and renames, so of two moves that start from the
    same release one fails. Elsewhere the pointer is read, compared and written: if two moves
    overlap, both can succeed, and the later one wins without noticing the other. In both cases
    readers never see half a pointer.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, name: str) -> Channel | None:
        """The channel, or None. Raises `Damaged`."""
        path = f"{DIRECTORY}/{name}.json"
        data = self._storage.read(path)
        if data is None:
            return None
        try:
            return Channel.model_validate_json(data)
        except ValidationError as error:
            raise Damaged(
                f"{self._storage.name(path)} is not a channel: {_first(error)}"
            ) from error

    def move(
        self, name: str, release: str, at: datetime, expected: str | Anything | None = ANYTHING
    ) -> Channel:
        """Point the channel at a release; does nothing if it already points there.

        `expected` is the release that it must point at now (None: it must not exist yet).
        Raises `ChannelMoved` otherwise, with nothing changed.
        """
        with self._storage.lock(f"{DIRECTORY}/{name}.lock"):
            current = self.read(name)
            found = current.release if current else None
            if not isinstance(expected, Anything) and found != expected:
                raise ChannelMoved(
                    f"channel {name!r} points at {found or 'nothing'}, "
                    f"not at {expected or 'nothing'} as expected"
                )
            if current is not None and found == release:
                return current
            moved = Channel(release=release, previous=found, at=at)
            path = f"{DIRECTORY}/{name}.json"
            self._storage.write(path, canonical_json(moved.model_dump(mode="json")))
            return moved

    def names(self) -> list[str]:
        """The names of all channels, sorted."""
        found = self._storage.names(DIRECTORY)
        return [name.removesuffix(".json") for name in found if name.endswith(".json")]


def _first(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
