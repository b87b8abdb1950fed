"""What can go wrong while reading or publishing releases, as one tree.

ReleaseError
├── NotFound        no such release or channel
├── Damaged         a file is truncated, altered, missing or unfinished; names it
├── NewerSchema     written by a newer version of this program
├── ChannelMoved    someone else has moved the channel
├── CanaryRefused   a canary cannot be started, changed or ended as asked
├── NoBucket        the bucket of the address does not exist
└── StorageFailed   the storage refused to read or write; names the file
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class ReleaseError(Exception):
    """Base of everything the registry and the reader raise on purpose."""


class NotFound(ReleaseError):
    """There is no release, channel or family of that name."""


class Damaged(ReleaseError):
    """A file of a release is truncated, altered, missing or unfinished."""


class NewerSchema(ReleaseError):
    """The release was written by a newer version of this program."""


class ChannelMoved(ReleaseError):
    """The channel does not point at the release it was expected to point at."""


class CanaryRefused(ReleaseError):
    """A canary cannot be started, changed or ended as asked."""


class NoBucket(ReleaseError):
    """An address is in a bucket that does not exist. Nothing makes one: it may be misspelt."""


class StorageFailed(ReleaseError):
    """The storage could not read or write a file."""


def first_fault(error: "ValidationError") -> str:
    """The first fault of a file in words: where, and what. Never the value, which may be a key."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
