"""Checkpoints as their headers tell them, before their weights are here. Their tensors are holes.

What opening a checkpoint refuses is so refused before its weights are fetched.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from consolidation.checkpoints.checkpoint import Checkpoint, ModelFiles, open_checkpoint
from consolidation.checkpoints.notes import Note, log_note
from consolidation.checkpoints.tensor_file import LENGTH_BYTES, MAX_HEADER_BYTES
from consolidation.errors import Refused
from consolidation.sources.fetching import at_once
from consolidation.sources.remote import Remote

FIRST_BYTES = 100_000
"""That are read of a file: most headers are shorter, as huggingface_hub has found."""


@dataclass(frozen=True, slots=True)
class HeaderFiles(ModelFiles):
    """Directories as `write_headers` makes them. called: by each, what people call its source."""

    called: Mapping[Path, str] = field(default_factory=dict)

    def open(self, note: Note = log_note) -> Checkpoint:
        """Nothing of it can be read but headers. Raises `Refused`, in terms of the sources."""
        try:
            return open_checkpoint(
                self.directory, self.adapter, lambda words: note(self._named(words))
            )
        except Refused as error:
            raise Refused(self._named(str(error))) from error

    def _named(self, words: str) -> str:
        """With the sources for the directories; where it has a command, that is for a copy."""
        for directory, called in self.called.items():
            copy = called.rstrip("/").rsplit("/", 1)[-1]
            if f"'{directory}" in words:
                words = words.replace(f"'{directory}", f"'{copy}")
                words += f"\nwhere {copy} is a directory with a copy of {called}"
            words = words.replace(str(directory), called)
        return words


def header(remote: Remote, name: str) -> bytes:
    """The beginning of a file, as far as it says where its tensors lie, if not farther.

    Raises: Refused, RunFailed.
    """
    size = remote.sizes[name]
    found = remote.read(name, 0, min(FIRST_BYTES, size)) if size else b""
    end = LENGTH_BYTES + int.from_bytes(found[:LENGTH_BYTES], "little")
    if len(found) < end <= min(MAX_HEADER_BYTES, size):
        found += remote.read(name, len(found), end)
    return found


def write_headers(
    remote: Remote, small: Iterable[str], weights: Iterable[str], directory: Path
) -> None:
    """Fill a directory, which must end as the remote's does: `cached_names` reads that.

    small: files that are here already.   Raises: Refused, RunFailed.
    """
    for name in small:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(remote.directory / name)
    names = list(weights)
    headers = at_once([partial(header, remote, name) for name in names])
    for name, found in zip(names, headers, strict=True):
        (directory / name).write_bytes(found)
        os.truncate(directory / name, remote.sizes[name])
