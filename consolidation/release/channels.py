"""Channels: named pointers to releases, moved by compare-and-swap. Reads no manifest."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from consolidation.release.errors import ChannelMoved, ReleaseError
from consolidation.release.pointers import Pointers
from consolidation.release.storage import Storage
from representation.names import NAME_RULE, valid_name


class Channel(BaseModel):
    """Where a channel points, where it pointed before, and when it was moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    previous: str | None
    at: datetime


class Anything:
    """Nothing in particular is expected of the channel."""


ANYTHING = Anything()


class ChannelStore(Pointers[Channel]):
    """The channels of one family. In a local directory, of two moves that start from the same
    release one fails. Elsewhere both can succeed.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage, "channels", Channel, "a channel")

    def move(
        self, name: str, release: str, at: datetime, expected: str | Anything | None = ANYTHING
    ) -> Channel:
        """Point the channel at a release; does nothing if it already points there.

        `expected` is the release that it must point at now (None: it must not exist yet), unless
        it is there already. Raises `ChannelMoved` otherwise, with nothing changed.
        """

        def move(current: Channel | None) -> Channel:
            found = current.release if current else None
            if current is not None and found == release:
                return current
            if not isinstance(expected, Anything) and found != expected:
                since = f" since {current.at:%Y-%m-%d %H:%M:%S} UTC" if current else ""
                raise ChannelMoved(
                    f"channel {name!r} points at {found or 'nothing'}{since}, "
                    f"not at {expected or 'nothing'} as expected"
                )
            return Channel(release=release, previous=found, at=at)

        return self.change(name, move)


def family_address(registry: str, family: str) -> str:
    """Where a registry, a directory or an fsspec address, keeps a family.

    Raises ReleaseError for a family that is not a name.
    """
    if not valid_name(family):
        raise ReleaseError(f"family {family!r} is not a name: {NAME_RULE}")
    return f"{registry}{'' if registry.endswith('/') else '/'}{family}"
