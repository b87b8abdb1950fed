"""Models at fsspec addresses, on the file system that fsspec keeps in memory."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.errors import ConsolidationError, Refused, RunFailed
from consolidation.run.executor import Progress
from consolidation.sources import address as address_module
from consolidation.sources.address import AddressFiles
from consolidation.sources.bringing import bring
from consolidation.sources.local_sources import found_from
from consolidation.sources.model_source import read_source

ADDRESS = "memory://bucket/models/tiny"


@pytest.fixture
def memory(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[fsspec.AbstractFileSystem]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(sharded), "/bucket/models/tiny", recursive=True)
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


def brought(text: str = ADDRESS, seen: list[Progress] | None = None) -> Checkpoint:
    source = read_source(text, found_from(Path("/nowhere")))
    files, _ = bring({"a": source}, None, (seen if seen is not None else []).append)
    return files["a"].open()


def refusal(text: str, kind: type[ConsolidationError] = Refused) -> str:
    with pytest.raises(kind) as refused:
        brought(text)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_address_is_read_as_the_directory_is_and_called_by_the_address(
    memory: Any, sharded: Path
) -> None:
    found = brought()
    assert found.name == ADDRESS
    assert found.num_bytes == open_checkpoint(sharded).num_bytes
    there = {path.name for path in found.directory.iterdir() if path.name != ".lock"}
    assert {name for name in there if name.endswith(".safetensors")} == {
        path.name for path in sharded.glob("model-0*")
    }
    assert "pytorch_model.bin" not in there


def test_a_file_is_copied_once_and_goes_on_where_a_run_was_stopped(
    memory: Any, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address_module, "PIECE_BYTES", 8192)
    asked: list[tuple[str, int]] = []
    stops = [20]
    whole = type(memory).cat_file

    def cat_file(self: Any, path: str, start: int, end: int) -> bytes:
        if stops == [len(asked)]:
            raise KeyboardInterrupt
        if end - start <= 8192:  # a header is read at once
            asked.append((path, start))
        return bytes(whole(self, path, start=start, end=end))

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    with pytest.raises(KeyboardInterrupt):
        brought()
    stops.clear()
    seen: list[Progress] = []
    found = brought(seen=seen)
    assert len(asked) == len(set(asked))
    for path in sharded.glob("model-0*"):
        assert (found.directory / path.name).read_bytes() == path.read_bytes()
    assert seen[-1].num_bytes is not None
    assert seen[-1].num_bytes[0] == seen[-1].num_bytes[1]
    before = len(asked)
    brought()
    assert len(asked) == before


def test_what_changes_at_an_address_is_another_version(memory: Any) -> None:
    first = brought()
    memory.pipe_file("/bucket/models/tiny/generation_config.json", b'{"do_sample": true}')
    second = brought()
    assert second.generation_config["do_sample"]
    assert first.directory != second.directory
    assert second.name == ADDRESS


def test_a_version_that_was_not_used_for_a_week_goes_when_another_is_used(memory: Any) -> None:
    memory.pipe_file("/bucket/models/tiny/inside/config.json", b"{}")
    first = brought().directory
    below = AddressFiles.listed(f"{ADDRESS}/inside").directory.parent
    memory.pipe_file("/bucket/models/tiny/generation_config.json", b'{"do_sample": true}')
    second = brought().directory
    assert first.is_dir()
    note = first.parent / f".{first.name}.used"
    week_ago = time.time() - address_module.KEPT_FOR_S - 1
    os.utime(note, (week_ago, week_ago))
    assert brought().directory == second
    assert not first.exists()
    assert not note.exists()
    assert below.is_dir()


def test_weights_of_another_kind_are_converted_where_they_were_copied_to(memory: Any) -> None:
    memory.pipe_file("/bucket/pickled/config.json", b"{}")
    memory.pipe_file("/bucket/pickled/pytorch_model.bin", b"x")
    with pytest.raises(Refused) as refused:
        brought("memory://bucket/pickled/")
    assert "copy it to a directory pickled of this machine, and convert" in str(refused.value)
    assert "from_pretrained('pickled', " in str(refused.value)


def test_what_is_wrong_with_an_address_is_one_line(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal("memory://bucket/none") == "there is nothing at memory://bucket/none"
    assert refusal(f"{ADDRESS}/config.json").startswith(f"{ADDRESS}/config.json is a file: ")
    assert "nosuch://x cannot be opened" in refusal("nosuch://x")

    errors: list[Exception] = [PermissionError("Access Denied"), TimeoutError("gone")]

    def ls(*_: Any, **__: Any) -> None:
        raise errors.pop(0)

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "ls", ls)
        assert "may not be read (PermissionError: Access Denied)" in refusal(ADDRESS)
        assert refusal(ADDRESS, RunFailed) == f"cannot read {ADDRESS}: TimeoutError: gone"
