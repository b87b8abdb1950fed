"""Changes of the keys file are taken up; a broken one is not."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serve_app.tenants.errors import BadKeys
from serve_app.tenants.key_text import digest_of
from serve_app.tenants.keys_store import KeysStore
from serve_app.tenants.keys_watch import FRESH_S, STALE_S, KeysWatch

NOW = datetime(2026, 11, 28, tzinfo=UTC)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text(*keys: str) -> str:
    held = ", ".join(f"{{sha256: {digest_of(key)}}}" for key in keys)
    return f"tenants: {{acme: {{keys: [{held}]}}}}"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], None]:
    def write(content: str) -> None:
        (tmp_path / "keys.yaml").write_text(content)

    write(text("one"))
    return write


async def knows(watch: KeysWatch, key: str) -> bool:
    return (await watch.keyring()).caller(key, NOW) is not None


def test_a_revoked_key_is_refused_5_seconds_later_at_most(
    tmp_path: Path, write: Callable[[str], None]
) -> None:
    async def run() -> None:
        clock = Clock()
        watch = KeysWatch(KeysStore(str(tmp_path / "keys.yaml")), clock)
        assert await knows(watch, "one")
        write(text("two"))
        clock.now = FRESH_S - 0.1
        assert await knows(watch, "one")  # the file was read just now
        clock.now = STALE_S + 0.1
        assert not await knows(watch, "one")
        assert await knows(watch, "two")

    asyncio.run(run())


@pytest.mark.parametrize("broken", ["tenants: [", "", " \n"])
def test_a_broken_file_keeps_the_old_keys_and_is_logged_once(
    tmp_path: Path,
    write: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    async def run() -> None:
        clock = Clock()
        watch = KeysWatch(KeysStore(str(tmp_path / "keys.yaml")), clock)
        write(broken)
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                clock.now += 10
                assert await knows(watch, "one")
        assert watch.is_broken
        assert [r.getMessage().count("the keys stay") for r in caplog.records] == [1]
        write(text("two"))
        clock.now += 10
        assert await knows(watch, "two")
        assert not watch.is_broken

    asyncio.run(run())


def test_without_a_sound_file_nothing_begins(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="there is no such file"):
        KeysWatch(KeysStore(str(tmp_path / "keys.yaml")), Clock())
    (tmp_path / "keys.yaml").write_text("")
    with pytest.raises(BadKeys, match="it is empty"):
        KeysWatch(KeysStore(str(tmp_path / "keys.yaml")), Clock())
