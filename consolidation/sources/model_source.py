"""How people say where a model comes from: `SOURCE[@REVISION][+ADAPTER]`. Opens nothing.

    what is written     SOURCE [ "@" REVISION ] [ "+" ADAPTER ]
    SOURCE              PATH | [ "hf://" ] ORG "/" NAME | SCHEME "://" …
    ADAPTER             PATH | [ "hf://" ] ORG "/" NAME [ "@" REVISION ] | SCHEME "://" …

A path that exists wins, and may hold `+` and `@`: the whole text if it is one, else the longest
beginning of it that ends before a `+`. Where there is none, ADAPTER begins after the first `+`, and
REVISION after the first `@`: names on the hub hold neither, and so must addresses and revisions do
without `+`. What looks like a name on the hub is one only if no such path exists; with `hf://` it
always is one. Directories and addresses have no revisions: in an address, `@` is a part of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

Find = Callable[[str], str | None]
"""The absolute path that a text means if something is there, else None."""

ON_HUB = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_ADDRESS = re.compile(r"[a-z][a-z0-9_-]*(::[a-z][a-z0-9_-]*)*://")
_LOGIN = re.compile(r"://[^/?#]*@")
_REVISION = re.compile(r"[^\s@-]\S*")


class BadSource(ValueError):
    """A text does not say where a model comes from. The message says why."""


class NoDirectory(BadSource):
    """It would, if there were a directory."""


class Kind(Enum):
    """How the files of a location are reached."""

    DIRECTORY = "directory"
    HUB = "hub"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Location:
    """Where files are. `source` is an absolute path, ORG/NAME on the hub, or an fsspec address."""

    kind: Kind
    source: str
    revision: str | None = None

    def __str__(self) -> str:
        """What means this location and no other, whatever directories there are."""
        if self.kind is not Kind.HUB:
            return self.source
        return f"{ON_HUB}{self.source}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class ModelSource(Location):
    """Where a model comes from, and the adapter that is put on it."""

    adapter: Location | None = None

    def __str__(self) -> str:
        own = Location.__str__(self)
        return own if self.adapter is None else f"{own}+{self.adapter}"


def without_login(text: str) -> str:
    """An address without the name and password that it may have."""
    return _LOGIN.sub("://", text)


def read_source(text: str, find: Find) -> ModelSource:
    """What `SOURCE[@REVISION][+ADAPTER]` says. Raises `BadSource`."""
    own, plus, rest = _split(text, find)
    if not plus:
        found = _location(text, find)
        return ModelSource(found.kind, found.source, found.revision)
    if not rest:
        raise BadSource(f"{text!r}: no adapter is given after the +")
    try:
        found = _location(own, find)
        adapter = _location(rest, find)
    except BadSource as error:
        raise type(error)(f"{text!r}: {error}") from error
    return ModelSource(found.kind, found.source, found.revision, adapter)


def _split(text: str, find: Find) -> tuple[str, str, str]:
    if find(text) is not None:
        return text, "", ""
    for at in reversed([at for at, sign in enumerate(text) if sign == "+"]):
        if find(text[:at]) is not None:
            return text[:at], "+", text[at + 1 :]
    return text.partition("+")


def _location(text: str, find: Find) -> Location:
    if not text:
        raise BadSource("no source is given")
    path = find(text)
    if path is not None:
        return Location(Kind.DIRECTORY, path)
    if _ADDRESS.match(text) and not text.startswith(ON_HUB):
        return Location(Kind.ADDRESS, text)
    is_name = text.startswith(ON_HUB)
    name, at, revision = text.removeprefix(ON_HUB).partition("@")
    if not is_name:
        _check_no_path(text, find)
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        if is_name:
            raise BadSource(f"{text!r}: a name on the hub is ORG/NAME")
        raise NoDirectory(f"{text!r} is not a directory, and a name on the hub is ORG/NAME")
    if at and not _REVISION.fullmatch(revision):
        raise BadSource(f"{text!r}: {revision!r} is not a branch, a tag or a commit")
    return Location(Kind.HUB, name, revision if at else None)


def _check_no_path(text: str, find: Find) -> None:
    """Raise `BadSource` for what can only be meant as a path: nothing is there."""
    for at, sign in enumerate(text):
        if sign == "@" and find(text[:at]) is not None:
            raise BadSource(f"{text!r}: {text[:at]!r} is a directory, which has no revisions")
    if text[0] in "./~" or text.partition("@")[0].count("/") > 1:
        raise NoDirectory(f"{text!r} is not a directory")
