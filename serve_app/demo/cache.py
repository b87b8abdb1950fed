"""The demo's checkpoints in the cache, complete or not at all. Does not train them."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import serve_app.demo

SOURCES = ("making.py", "skills.py", "byte_tokenizer.py", "training.py")
"""The code that determines the checkpoints: a change in one of these files makes a new family."""
INDEX = "family.json"

Make = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class DemoFamily:
    """The checkpoints by model, how each was made, and whether this run made them."""

    directory: Path
    models: dict[str, Path]
    made: list[dict[str, Any]]
    is_new: bool


def cache_root() -> Path:
    """`$XDG_CACHE_HOME/expertpool`, or `~/.cache/expertpool`."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "expertpool"


def version_digest() -> str:
    """Digest of the code that makes the family."""
    here = Path(serve_app.demo.__file__).parent
    content = b"".join((here / name).read_bytes() for name in SOURCES)
    return hashlib.sha256(content).hexdigest()[:12]


def cached_family(root: Path, make: Make, *, version: str | None = None) -> DemoFamily:
    """The family in the cache; `make(directory)` makes it if it is missing or incomplete.

    A directory gets its name only when it is complete, so a run that dies leaves nothing that
    counts. Two runs at the same time make it only once.
    """
    directory = root / f"demo-{version or version_digest()}"
    root.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_suffix(".lock")):
        if is_whole(directory):
            return _family(directory, is_new=False)
        partial = directory.with_suffix(".partial")
        for left in (partial, directory):
            if left.exists():
                shutil.rmtree(left)
        partial.mkdir()
        make(partial)
        _write_index(partial)
        partial.rename(directory)
        return _family(directory, is_new=True)


def is_whole(directory: Path) -> bool:
    """Whether exactly the files that were written are there, unchanged."""
    try:
        files = json.loads((directory / INDEX).read_text())["files"]
        return bool(files) and files == _digests(directory)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _family(directory: Path, *, is_new: bool) -> DemoFamily:
    models = {path.name: path for path in sorted(directory.iterdir()) if path.is_dir()}
    made = json.loads((directory / "made.json").read_text())
    return DemoFamily(directory, models, made, is_new)


def _write_index(directory: Path) -> None:
    content = json.dumps({"files": _digests(directory)}, indent=1, sort_keys=True)
    (directory / INDEX).write_text(content)


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file in the directory except the index, by path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != INDEX
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock is freed when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
