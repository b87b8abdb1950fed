"""What is written appears whole or not at all, and what killed processes leave is cleaned up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from consolidation.release.storage import LocalStorage, temporary
from consolidation.release.storage.temporary import remove_left, write_whole

_WRITES = """
import os, sys
from pathlib import Path
from consolidation.release.storage.temporary import write_whole
def stop(_):
    print("writing", flush=True)
    sys.stdin.readline()
os.fsync = stop
write_whole(Path(sys.argv[1]), b"new")
"""


@contextmanager
def _writer(target: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process in the middle of writing."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _WRITES, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


def test_what_a_killed_writer_leaves_is_removed_and_what_is_being_written_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "below").mkdir()
    target = tmp_path / "below" / "file"
    write_whole(target, b"old")
    (tmp_path / ".mine.tmp").touch()
    with _writer(target) as writer:
        remove_left(tmp_path)
        assert len(_names(tmp_path)) == 3
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(_names(tmp_path)) == 3
        assert target.read_bytes() == b"old"
        LocalStorage(tmp_path).tidy()
    assert _names(tmp_path) == {"file", ".mine.tmp"}


def test_a_writer_writes_on_while_others_clean_up(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with _writer(target) as writer:
        remove_left(tmp_path)
        writer.communicate("\n")
    assert writer.returncode == 0
    assert target.read_bytes() == b"new"
    assert _names(tmp_path) == {"file"}


def test_what_another_machine_left_is_removed_after_a_day(tmp_path: Path) -> None:
    """Its locks need not be seen here."""
    left = tmp_path / f".file.elsewhere.{'0' * 32}.tmp"
    left.touch()
    remove_left(tmp_path)
    assert left.exists()
    long_ago = time.time() - 25 * 3600
    os.utime(left, (long_ago, long_ago))
    remove_left(tmp_path)
    assert not left.exists()


def test_a_file_that_was_taken_for_left_before_it_was_locked_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = temporary._lock
    tidied: list[bool] = []

    def tidy_first(file: BinaryIO) -> None:
        if not tidied:
            tidied.append(True)
            remove_left(tmp_path)
        lock(file)

    monkeypatch.setattr(temporary, "_lock", tidy_first)
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert _names(tmp_path) == {"file"}


def test_who_shares_a_path_learns_whether_others_do(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with storage.share("work/x.lock") as first_is_alone:
        with storage.share("work/x.lock") as second_is_alone:
            assert not second_is_alone()
        assert first_is_alone()
    assert _names(tmp_path) == set()
