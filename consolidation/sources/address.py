"""Checkpoints at fsspec addresses, such as s3://: copied file by file, and each from where it was.

The copy of an address has a directory for each version: the same names, sizes and tags of files.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from consolidation.checkpoints.cached_names import AT_ADDRESS
from consolidation.errors import ConsolidationError, Refused, RunFailed
from consolidation.release.storage import asked_once, missing_package, open_filesystem
from consolidation.sources.model_source import without_login
from consolidation.sources.remote import OnBytes

PIECE_BYTES = 1 << 24
KEPT_FOR_S = 7 * 24 * 3600.0
"""How long a version of an address stays that no run uses while runs use others."""
TAGS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")
"""What file systems say of a file that changes with its content; the first that is there counts."""
WRONG_SETTINGS = {"ParamValidationError", "ProfileNotFound"}
"""What botocore raises for names and settings that cannot work."""


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/expertpool/sources`, or below `~/.cache`."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "expertpool" / "sources"


@dataclass(frozen=True, slots=True)
class AddressFiles:
    """The files of a directory at an address. `tags` changes with their content, by name."""

    called: str
    cache: Path
    root: str
    sizes: Mapping[str, int]
    tags: Mapping[str, str]
    filesystem: Any = field(repr=False, compare=False)

    @classmethod
    def listed(cls, address: str) -> Self:
        """Raises: Refused, RunFailed."""
        with _explained(address):
            filesystem, root = open_filesystem(address)
            sizes, tags = _listing(asked_once(filesystem), root)
        found = cls(without_login(address), cache_root(), root, sizes, tags, filesystem)
        found.note_use(time.time())
        return found

    def note_use(self, now: float) -> None:
        """Note that this version is used, and remove those that were not for a week."""
        place, own = self.directory.parent, self.directory.name
        place.mkdir(parents=True, exist_ok=True)
        for used in place.glob(".*.used"):
            version = used.name[1:].removesuffix(".used")
            with suppress(FileNotFoundError):  # another run has removed it
                if version != own and now - used.stat().st_mtime > KEPT_FOR_S:
                    shutil.rmtree(place / version, ignore_errors=True)
                    used.unlink()
        (place / f".{own}.used").touch()

    @property
    def directory(self) -> Path:
        protocol, _, path = self.called.partition("://")
        version = hashlib.sha256(json.dumps(sorted(self.tags.items())).encode()).hexdigest()[:16]
        return self.cache / f"{AT_ADDRESS}{protocol}" / path.strip("/") / version

    def is_here(self, name: str) -> bool:
        return (self.directory / name).is_file()

    def fetch(self, name: str, on_bytes: OnBytes) -> None:
        """What a run that was stopped has copied of the file is not copied again."""
        target = self.directory / name
        part = target.with_name(f".{target.name}.part")
        if target.is_file():
            return
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if target.is_file():  # Another process had the lock, and has renamed its part.
                part.unlink(missing_ok=True)
                return
            done, size = file.seek(0, os.SEEK_END), self.sizes[name]
            on_bytes(done)
            while done < size:
                piece = self.read(name, done, min(done + PIECE_BYTES, size))
                file.write(piece)
                done += len(piece)
                on_bytes(len(piece))
            file.flush()
            part.rename(target)

    def read(self, name: str, start: int, end: int) -> bytes:
        with _explained(self.called):
            path = f"{self.root}/{name}"
            piece = bytes(self.filesystem.cat_file(path, start=start, end=end))
            if len(piece) != end - start:
                words = "has changed while it was copied: start again"
                raise RunFailed(f"{self.called}/{name} {words}")
            return piece


def _listing(filesystem: Any, root: str) -> tuple[dict[str, int], dict[str, str]]:
    filesystem.invalidate_cache()
    sizes, tags = {}, {}
    for one in filesystem.ls(root, detail=True):
        if one["type"] == "file":
            if str(one["name"]).lstrip("/") == root.strip("/"):
                raise NotADirectoryError
            name = str(one["name"]).rsplit("/", 1)[-1]
            sizes[name] = int(one["size"])
            tag = next((str(one[key]) for key in TAGS if one.get(key)), "")
            tags[name] = f"{sizes[name]} {tag}"
    return sizes, tags


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Errors of any file system in one line each."""
    try:
        yield
    except ConsolidationError:
        raise
    except Exception as error:  # every protocol raises its own classes
        raise _explanation(address, error) from error


def _explanation(address: str, error: Exception) -> ConsolidationError:
    address = without_login(address)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, ImportError):
        return Refused(missing_package(address, error))
    if isinstance(error, ValueError) or type(error).__name__ in WRONG_SETTINGS:
        return Refused(f"{address} cannot be opened: {words}")
    if isinstance(error, NotADirectoryError):
        return Refused(f"{address} is a file: give the directory that it lies in")
    if isinstance(error, FileNotFoundError):
        is_said = str(error).strip("/") in address
        return Refused(f"there is nothing at {address}" + ("" if is_said else f" ({error})"))
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return Refused(
            f"{address} may not be read ({words}): give credentials as for AWS's own tools "
            "(AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            if address.startswith("s3")
            else f"{address} may not be read ({words})"
        )
    return RunFailed(f"cannot read {address}: {words}")
