"""What processes of an endpoint say, as one line each, where their terminal is."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from ray._private.ray_logging import LogDeduplicator

from serve_app.serving.run import _RAY
from serve_app.serving.terminal import heard

PROCESS = """
import logging, sys
from serve_app.errors import where
from serve_app.serving.terminal import log_as
log_as("engine", sys.argv[1], "text")
log = logging.getLogger("serve_app.serving.x")
log.info("serving release r1 after 2.0 s")
log.warning("a\\x1b[2Jb [bold]c")
try:
    raise RuntimeError("secret")
except RuntimeError as error:
    log.error("request 7: POST /x failed: %s", where(error))
log.error("x" * 9000)
logging.getLogger("serve_app.access").info("request")
logging.getLogger("uvicorn").error("of a library")
sys.stdin.read()
"""


def _started(level: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", PROCESS, level]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_each_record_is_one_line_without_what_a_terminal_would_obey() -> None:
    said: list[str] = []
    with heard(said.append), _started("info") as process:
        _until(lambda: len(said) == 4)
        process.communicate()
    assert said[:3] == [
        "engine: serving release r1 after 2.0 s",
        "engine: warning: a\ufffd[2Jb [bold]c",
        "engine: error: request 7: POST /x failed: RuntimeError",
    ]
    assert said[3] == ("engine: error: " + "x" * 9000)[:500]


def test_the_least_level_holds_for_the_terminal_and_for_the_log() -> None:
    said: list[str] = []
    with heard(said.append), _started("error") as process:
        _until(lambda: len(said) == 2)
        _, written = process.communicate()
    assert all(line.startswith("engine: error: ") for line in said[:2])
    assert b"serving release" not in written
    assert b"secret" not in written
    assert b"failed: RuntimeError:\n  File " in written
    assert b"of a library" in written


@pytest.mark.parametrize("is_expected", [False, True])
def test_the_end_of_a_process_is_said_unless_it_is_expected(is_expected: bool) -> None:
    said: list[str] = []
    with heard(said.append) as ears, _started("info") as process:
        _until(lambda: len(said) == 4)
        if is_expected:
            ears.expect_ends()
        process.kill()
        process.communicate()
        if is_expected:
            time.sleep(0.2)
        else:
            _until(lambda: len(said) == 5)
    ended = [f"the engine (process {process.pid}) has ended; another one starts"]
    assert said[4:] == ([] if is_expected else ended)


def test_ray_has_nothing_to_add_when_a_process_has_ended() -> None:
    died = (
        "A worker died or was killed while executing a task by an unexpected system error. To"
        " troubleshoot the problem, check the logs for the dead worker. Lease ID: 01 Worker ID: 85"
    )
    shown = LogDeduplicator(5, None, _RAY["RAY_DEDUP_LOGS_SKIP_REGEX"])
    [batch] = shown.deduplicate({"pid": "raylet", "is_err": False, "lines": [died, "No memory"]})
    assert batch["lines"] == ["No memory"]


def test_without_a_terminal_a_process_has_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPERTPOOL_TERMINAL", raising=False)
    with _started("info") as process:
        _, written = process.communicate()
    assert b"INFO serve_app.serving.x: serving release r1 after 2.0 s" in written


def test_after_the_terminals_end_a_process_goes_on() -> None:
    said: list[str] = []
    with heard(said.append):
        process = _started("info")
        _until(lambda: len(said) == 4)
    with process:
        process.communicate()
    assert process.returncode == 0
    assert logging.getLogger("serve_app").handlers == []
