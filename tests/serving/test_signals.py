"""Signals to `expertpool serve` while it starts and afterwards, with all its real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_app.bench.http.processor_time import running
from serve_app.cli.processes import descendants
from serve_app.serving.run import free_port
from tests.chaos.endpoint import EXPERTPOOL, is_alive, wait_until
from tests.serving.family import FAMILY, TinyFamily

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SHARED = Path("/dev/shm")


class Serving:
    """The command, and what it has started so far."""

    def __init__(self, family: TinyFamily, log: Path) -> None:
        self.log = log
        command = ["serve", "--family", FAMILY, "--registry", family.url, "--device", "cpu"]
        command += ["--dtype", "float32", "--kv-tokens", "2048", "--port", str(free_port())]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", EXPERTPOOL, *command],
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def below(self) -> dict[int, str]:
        """Commands of its processes by id."""
        known = {one.pid: one.command for one in running()}
        return {pid: known.get(pid, "") for pid in descendants(self.process.pid)}

    def starts_ray(self) -> bool:
        return any("gcs_server" in command for command in self.below().values())

    def starts_replicas(self) -> bool:
        return any("ServeController" in command for command in self.below().values())

    def listens(self) -> bool:
        return "listening at" in self.log.read_text()

    def reads_texts(self) -> bool:
        return bool(self.directories())

    def directories(self) -> list[Path]:
        """Those that a text process is told to use."""
        words = [word for command in self.below().values() for word in command.split()]
        return [Path(word) for word in words if "/expertpool-text-" in word]

    def end(self) -> None:
        below = self.below()
        self.process.kill()
        self.process.wait()
        for pid in below:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> TinyFamily:
    found = TinyFamily(tmp_path_factory.mktemp("family"))
    found.make_models("ab")
    found.publish("ab", channel="stable")
    return found


@pytest.fixture
def serving(family: TinyFamily, tmp_path: Path) -> Iterator[Serving]:
    made = Serving(family, tmp_path / "log")
    yield made
    made.end()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, Serving.starts_ray),
        (signal.SIGHUP, Serving.starts_ray),
        (signal.SIGTERM, Serving.starts_replicas),
        (signal.SIGINT, Serving.listens),
        (signal.SIGHUP, Serving.reads_texts),
    ],
)
def test_nothing_stays_after_a_signal(
    serving: Serving, number: signal.Signals, moment: Callable[[Serving], bool]
) -> None:
    semaphores = set(SHARED.glob("sem.*"))
    wait_until(lambda: moment(serving), 60, "it has come so far")
    below, directories = serving.below(), serving.directories()
    serving.process.send_signal(number)
    code = serving.process.wait(timeout=30)
    assert code in (0, 128 + number), serving.log.read_text()
    wait_until(lambda: not any(map(is_alive, below)), 30, "no process is left")
    time.sleep(0.5)
    assert [place for place in directories if place.exists()] == []
    assert set(SHARED.glob("sem.*")) <= semaphores
