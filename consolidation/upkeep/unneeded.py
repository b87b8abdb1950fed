"""Which releases and blobs of a family nothing needs any more. Pure: reads and removes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from consolidation.release.storage import File

KEEP = timedelta(days=7)
"""How long a release is kept that no channel names."""
GRACE = timedelta(hours=24)
"""How old a file must be that no release names: a younger one may be part of the next."""


@dataclass(frozen=True, slots=True)
class Found:
    """A release in the registry. blobs: paths of what it consists of, below the family."""

    id: str
    at: datetime
    blobs: frozenset[str]
    named_by: tuple[str, ...] = ()
    """What points at it, in words: `channel stable`, `before channel stable`."""
    is_readable: bool = True
    """False if its manifest is not whole or altered; then its blobs are not known."""


@dataclass(frozen=True, slots=True)
class Unneeded:
    """What can be removed, and what stays. Files by path below the family, with their bytes."""

    releases: tuple[Found, ...]
    kept: tuple[Found, ...]
    unfinished: tuple[str, ...]
    """Releases that were begun and never published."""
    blobs: Mapping[str, int]
    kept_bytes: int
    """Of all blobs that stay."""

    @property
    def num_bytes(self) -> int:
        """Of the blobs that can be removed."""
        return sum(self.blobs.values())


def unneeded(
    releases: Sequence[Found],
    unfinished: Mapping[str, datetime],
    blobs: Mapping[str, File],
    now: datetime,
    *,
    keep: timedelta = KEEP,
    grace: timedelta = GRACE,
) -> Unneeded:
    """What no channel and no recent release needs.

    A release stays if something names it, or if it was published within `keep`. A blob stays if a
    release that stays consists of it, or if it was written within `grace`.
    unfinished: releases without a manifest, with the time of their latest file; they go after
    `grace`.   blobs: all there are, by path.
    """
    kept = tuple(one for one in releases if one.named_by or now - one.at < keep)
    needed = frozenset[str]().union(*(one.blobs for one in kept))
    goes = {
        path: file.num_bytes
        for path, file in blobs.items()
        if path not in needed and now - file.at >= grace
    }
    return Unneeded(
        releases=tuple(one for one in releases if one not in kept),
        kept=kept,
        unfinished=tuple(sorted(one for one, at in unfinished.items() if now - at >= grace)),
        blobs=goes,
        kept_bytes=sum(file.num_bytes for path, file in blobs.items() if path not in goes),
    )
