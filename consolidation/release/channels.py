"""Channels: named pointers to releases, moved by compare-and-swap. Reads no manifest."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from consolidation.release.errors import ChannelMoved, Damaged
from consolidation.release.manifest import canonical_json
from consolidation.release.storage import Storage

DIRECTORY = "channels"


class Channel(BaseModel):
    """Where a channel points, where it pointed before, and since when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    previous: str | None
    at: datetime


class Anything:
    """What is expected of a channel when nothing is."""


ANYTHING = Anything()


class ChannelStore:
    """The channels of one family.

    On a local directory a move is made under a lock file and by rename, so of two that start from
    the same place one fails. Elsewhere the pointer is read, compared and written: two moves within
    the time between reading and writing can both succeed, and the later one wins without noticing
    the other. Readers never see half a pointer in either case.
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
        """Point the channel at a release; changes nothing when it already does.

        `expected` is the release it must point at now (None: it must not exist yet).
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
        """All channels' names, sorted."""
        found = self._storage.names(DIRECTORY)
        return [name.removesuffix(".json") for name in found if name.endswith(".json")]


def _first(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
