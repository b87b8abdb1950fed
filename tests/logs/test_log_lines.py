"""Lines of the log: what is in one, where they go, and that a flood is counted."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.logs.about import about
from serve_app.logs.floods import Unflooded
from serve_app.logs.lines import LONGEST_BYTES, LogFormat, formatter_of
from serve_app.logs.outputs import CONTAINER, ToOutput, container_output


class Kept(logging.Handler):
    """The lines that were written."""

    def __init__(self, form: LogFormat = "json") -> None:
        super().__init__()
        self.setFormatter(formatter_of(form, "engine"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.lines]


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    made = logging.Logger("serve_app.x")
    yield made
    made.handlers.clear()


def test_a_json_line_has_time_level_process_and_facts(log: logging.Logger) -> None:
    kept = Kept()
    log.addHandler(kept)
    log.warning("%d\nof é", 2, extra=about(request="r-1", model=None, status=200))
    [line] = kept.lines
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "warning",
        "process": "engine",
        "logger": "serve_app.x",
        "event": "2\nof é",
        "request": "r-1",
        "status": 200,
    }


def test_a_text_line_has_the_same(log: logging.Logger) -> None:
    kept = Kept("text")
    log.addHandler(kept)
    log.error("broke", extra=about(request="r-1"))
    assert kept.lines[0].endswith(' ERROR serve_app.x: broke request="r-1"')


def test_a_long_line_stays_one_piece_of_a_pipe_and_json(log: logging.Logger) -> None:
    kept = Kept()
    log.addHandler(kept)
    log.error("é" * 5000, extra=about(request="r"))
    [line] = kept.lines
    assert len(line.encode()) <= 2 * LONGEST_BYTES
    assert json.loads(line)["event"].endswith(" …")
    try:
        raise RuntimeError("why")
    except RuntimeError:
        log.exception("broke")
    assert kept.events[1].startswith("broke\nTraceback")


def test_lines_of_one_kind_are_counted_once_they_are_too_many(log: logging.Logger) -> None:
    now = [0.0]
    kept = Kept()
    flood = Unflooded([kept], most=3, every_s=10.0, clock=lambda: now[0])
    log.addHandler(flood)
    for number in range(50):
        log.error("job %d failed", number)
        log.error("another kind")
    assert kept.events.count("another kind") == 3
    assert [event for event in kept.events if event.startswith("job")] == [
        "job 0 failed",
        "job 1 failed",
        "job 2 failed",
    ]
    now[0] = 10.0
    log.error("job %d failed", 99)
    assert kept.events[-1] == "job 99 failed"


def test_what_was_left_out_is_said_when_the_time_is_over(log: logging.Logger) -> None:
    kept = Kept()
    log.addHandler(Unflooded([kept], most=1, every_s=0.05))
    for _ in range(10):
        log.error("job %s failed", "MARKED", extra=about(kind="jobs"))
    end = time.monotonic() + 10
    while len(kept.lines) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    told = json.loads(kept.lines[1])
    assert told["left_out"] == 9
    assert told["event"] == "9 more lines like this one were left out in 0.05 s: job %s failed"


def test_what_is_not_limited_is_written_always(log: logging.Logger) -> None:
    kept = Kept()
    log.addHandler(Unflooded([kept], most=1))
    for _ in range(30):
        log.info("request", extra=about(is_limited=False))
    assert len(kept.lines) == 30


def test_kinds_beyond_the_bound_do_not_stay_in_memory(log: logging.Logger) -> None:
    flood = Unflooded([Kept()], clock=lambda: 0.0)
    log.addHandler(flood)
    for number in range(2500):
        log.info("x", extra=about(kind=str(number)))
    assert len(flood._windows) <= 1000


def test_an_output_that_nobody_reads_never_makes_anybody_wait(
    log: logging.Logger, tmp_path: Path
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    output = ToOutput(str(path))
    output.setFormatter(formatter_of("json", "engine"))
    log.addHandler(output)
    log.error("first")
    assert json.loads(os.read(reading, 4096))["event"] == "first"
    for _ in range(200):
        log.error("x" * 900)
    assert output.num_lost > 0
    os.close(reading)
    log.error("nobody is there")


def test_on_kubernetes_lines_go_to_the_containers_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert container_output() is None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert container_output() == CONTAINER


PROCESS = """
import logging, sys
from serve_app.logs.log_writing import write_lines, write_lines_as_parent
if sys.argv[1] == "parent":
    import subprocess
    write_lines("engine", "info", "json", sys.argv[2])
    logging.getLogger("serve_app.x").warning("mine")
    logging.getLogger("serve_app.access").info("request")
    subprocess.run([sys.executable, "-c", sys.argv[3], "child"], check=True)
else:
    write_lines_as_parent("text", "warning")
    logging.getLogger("serve_app.text.y").error("its own")
"""


def test_a_process_and_those_that_it_starts_write_to_the_same_places(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    command = [sys.executable, "-c", PROCESS, "parent", str(path), PROCESS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    told = [(line["process"], line["event"]) for line in kept]
    assert told == [("engine", "mine"), ("engine", "request"), ("text", "its own")]
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["mine", "its own"]


def test_an_output_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "lines"
    command = [sys.executable, "-c", PROCESS, "parent", str(path), PROCESS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *others = done.stderr.splitlines()
    assert str(path) in json.loads(first)["event"]
    assert [json.loads(line)["event"] for line in others[:2]] == ["mine", "request"]
