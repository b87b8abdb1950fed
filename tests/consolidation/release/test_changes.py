"""Changes of one file at once: on a server that speaks S3, and on stores that know less."""

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from consolidation.release.errors import ChannelMoved, StorageFailed
from consolidation.release.registry import Registry
from consolidation.release.storage import RemoteStorage, open_storage, remote_storage
from consolidation.release.storage.conditions import Moved, write_if
from tests.consolidation.release.test_registry import make_release
from tests.support.s3_server import S3

PATH = "channels/stable.json"


@pytest.fixture
def storage(s3: S3, tmp_path: Path) -> RemoteStorage:
    found = open_storage(f"s3://bucket/{tmp_path.name}")
    assert isinstance(found, RemoteStorage)
    return found


@pytest.mark.parametrize("content", [None, b"1"], ids=["a new file", "one that is there"])
def test_a_change_that_was_overtaken_is_made_of_what_the_other_wrote(
    storage: RemoteStorage, content: bytes | None
) -> None:
    if content is not None:
        storage.write(PATH, content)
    seen: list[bytes | None] = []

    def by(before: bytes | None) -> bytes:
        if not seen:
            storage.write(PATH, b"another")
        seen.append(before)
        return b"<%s>" % (before or b"")

    assert storage.change(PATH, by) == b"<another>"
    assert storage.read(PATH) == b"<another>"
    assert seen == [content, b"another"]


def test_a_change_of_a_file_that_is_removed_meanwhile_makes_it_anew(storage: RemoteStorage) -> None:
    storage.write(PATH, b"1")
    seen: list[bytes | None] = []

    def by(before: bytes | None) -> bytes:
        if not seen:
            storage.remove(PATH)
        seen.append(before)
        return b"2"

    assert storage.change(PATH, by) == b"2"
    assert seen == [b"1", None]


def test_a_move_that_was_overtaken_in_a_bucket_is_told_so(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://bucket/{tmp_path.name}"
    registry, other = Registry(url, "fam"), Registry(url, "fam")
    first, mine, theirs = (registry.publish(make_release(registry, float(i))) for i in range(3))
    registry.move_channel("stable", first)
    read = registry.storage.read
    overtakers = [other]

    def read_and_be_overtaken(path: str) -> bytes | None:
        found = read(path)
        if path == PATH and overtakers:
            overtakers.pop().move_channel("stable", theirs, expected=first)
        return found

    monkeypatch.setattr(registry.storage, "read", read_and_be_overtaken)
    with pytest.raises(ChannelMoved):
        registry.move_channel("stable", mine, expected=first)
    channel = registry.channel("stable")
    assert channel is not None
    assert (channel.release, channel.previous) == (theirs, first)


def test_a_write_whose_answer_was_lost_is_not_made_twice(
    storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_answer(*arguments: object) -> None:
        write_if(*arguments)  # type: ignore[arg-type]
        raise Moved

    monkeypatch.setattr(remote_storage, "write_if", lose_the_answer)
    assert storage.change(PATH, lambda before: (before or b"") + b"1") == b"1"
    assert storage.read(PATH) == b"1"


def test_a_file_that_never_stays_as_it_was_is_given_up(storage: RemoteStorage) -> None:
    count = iter(range(10_000))

    def by(_: bytes | None) -> bytes:
        storage.write(PATH, b"%d" % next(count))
        return b"mine"

    with pytest.raises(StorageFailed, match="others changed it all the time"):
        storage.change(PATH, by)


def test_a_store_that_knows_no_conditions_is_written_all_the_same(
    storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old(type(storage.filesystem)):  # type: ignore[misc]
        def pipe_file(self, path: str, data: bytes, **conditions: str) -> None:
            if conditions:
                told = {"Error": {"Code": "NotImplemented", "Message": "a header is not known"}}
                raise OSError("not known") from ClientError(told, "PutObject")
            super().pipe_file(path, data)

    monkeypatch.setattr(storage, "filesystem", Old(skip_instance_cache=True))
    assert storage.change(PATH, lambda _: b"1") == b"1"
    assert storage.change(PATH, lambda before: (before or b"") + b"2") == b"12"
    assert storage.read(PATH) == b"12"
