"""`run`: what it does with its port, with signals, and with what it started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from serve_app.bench.http.processor_time import running
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.errors import ConfigError
from serve_app.serving.run import free_port, run
from tests.support.sockets import listening, num_listening

PROGRAM = """
import sys
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.run import run
config = ServeConfig(registry=sys.argv[1], family="none", engine=EngineConfig(device="cpu"))
started = lambda address: print(address, flush=True)
run(config, UserConfig(channel="stable"), int(sys.argv[2]), ingresses=2, on_started=started)
print("ended")
"""


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            run(ServeConfig(), UserConfig(channel="stable"), port)


def test_a_device_that_is_not_there_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = ServeConfig(engine=EngineConfig(device="cuda"))
    with pytest.raises(ConfigError, match="device: 'cuda', and there is no such device here"):
        run(config, UserConfig(channel="stable"))


@pytest.mark.parametrize("host", ["0.0.0.0", "203.0.113.1"])
def test_others_than_this_machine_need_keys_or_leave_to_go_without(host: str) -> None:
    with pytest.raises(ConfigError, match=f"host {host}: without a keys file"):
        run(ServeConfig(), UserConfig(channel="stable"), host=host)


def test_a_broken_keys_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("tenants: {acme: {rpm: 3}}")
    config = ServeConfig(keys=str(tmp_path / "keys.yaml"))
    with pytest.raises(ConfigError, match=r"tenants\.acme\.rpm"):
        run(config, UserConfig(channel="stable"))


class Started:
    """`run` in a process of its own, with two ingresses and no release."""

    def __init__(self, program: "subprocess.Popen[bytes]", port: int) -> None:
        self.program = program
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

    def ingresses(self) -> list[int]:
        processes = {process.pid: process.command for process in running()}
        below = _descendants(self.program.pid)
        return [pid for pid in below if ":Ingress" in processes.get(pid, "")]

    def version(self) -> int:
        """The status of an answer on a new connection."""
        return httpx.get(f"{self.address}/version", timeout=10).status_code


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    port = free_port()
    place = str(tmp_path_factory.mktemp("registry"))
    arguments = [sys.executable, "-c", PROGRAM, place, str(port)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        try:
            assert program.stdout is not None
            found = Started(program, port)
            assert program.stdout.readline().decode().strip() == found.address
            yield found
        finally:
            if program.poll() is None:
                program.terminate()
                program.communicate(timeout=60)
            program.kill()


@pytest.mark.ray
def test_every_process_listens_on_the_loopback_address_alone(started: Started) -> None:
    pids = [started.program.pid, *_descendants(started.program.pid)]
    found = listening(pids)
    assert len(found) > 10
    assert [one for one in found if not one[0].is_loopback] == []


@pytest.mark.ray
def test_one_ingress_serves_on_while_the_other_is_dead_and_another_is_started(
    started: Started,
) -> None:
    _until(lambda: len(started.ingresses()) == 2, 30)
    killed, left = started.ingresses()
    os.kill(killed, signal.SIGKILL)
    _until(lambda: num_listening(started.port) == 1, 5)
    for _ in range(20):
        assert started.version() == 200
    _until(lambda: len(set(started.ingresses()) - {killed}) == 2, 60)
    _until(lambda: num_listening(started.port) == 2, 30)
    os.kill(left, signal.SIGKILL)
    _until(lambda: num_listening(started.port) == 1, 5)
    assert started.version() == 200


@pytest.mark.ray
def test_sigterm_ends_every_process(started: Started) -> None:
    assert httpx.get(f"{started.address}/ready", timeout=30).status_code == 503
    children = list(_descendants(started.program.pid))
    assert len(children) > 3
    started.program.send_signal(signal.SIGTERM)
    output, _ = started.program.communicate(timeout=60)
    assert started.program.returncode == 0
    assert b"ended" in output
    _until(lambda: not any(_alive(pid) for pid in children), 20)


def _until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.1)


def _parents() -> dict[int, int]:
    """Parent by process id, of all processes; zombies left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(entry.name)] = int(fields[1])
    return found


def _descendants(pid: int) -> Iterator[int]:
    parents = _parents()
    below = {pid}
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in below} - below
        below |= more
        grown = bool(more)
    yield from sorted(below - {pid, os.getpid()})


def _alive(pid: int) -> bool:
    return pid in _parents()
