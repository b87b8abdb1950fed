"""Large files of a bucket, read in pieces at once, from a server that speaks S3."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from consolidation.release import Registry
from consolidation.release.errors import Damaged
from consolidation.release.manifest import Blob
from consolidation.release.registry import blob_path
from consolidation.release.storage import remote_storage
from tests.support.s3_server import S3

CONTENT = bytes(range(256)) * 40
PATH = "blobs/large.bin"


@pytest.fixture
def registry(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(remote_storage, "PIECE_BYTES", 1000)
    return Registry(f"s3://bucket/{tmp_path.name}", "fam")


def test_a_large_file_is_read_in_pieces_and_a_small_one_at_once(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.storage.write(PATH, CONTENT)
    filesystem = registry.storage.filesystem  # type: ignore[attr-defined]
    asked: list[Any] = []
    cat = filesystem._cat_file

    async def counted(path: str, start: int | None = None, end: int | None = None) -> bytes:
        asked.append((start, end))
        return bytes(await cat(path, start=start, end=end))

    monkeypatch.setattr(filesystem, "_cat_file", counted)
    assert registry.storage.read(PATH, len(CONTENT)) == CONTENT
    assert sorted(asked)[:2] == [(0, 1000), (1000, 2000)]
    assert len(asked) == 11
    registry.storage.write(PATH, CONTENT[:1000])
    asked.clear()
    assert registry.storage.read(PATH, 1000) == CONTENT[:1000]
    assert asked == []


@pytest.mark.parametrize("found", [CONTENT + b"x", CONTENT[:4321], b""])
def test_a_large_file_of_another_size_is_damage(registry: Registry, found: bytes) -> None:
    blob = registry.write_blob(CONTENT, suffix="bin")
    registry.storage.write(blob_path(blob, "bin"), found)
    with pytest.raises(Damaged, match=f"has {len(found)} bytes instead of {len(CONTENT)}"):
        registry.read_bytes(blob)


def test_a_large_file_that_is_gone_is_missing(registry: Registry) -> None:
    blob = Blob(digest=hashlib.sha256(CONTENT).hexdigest(), bytes=len(CONTENT))
    with pytest.raises(Damaged, match="is missing"):
        registry.read_bytes(blob)
