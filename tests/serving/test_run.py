"""`run`: what it does with its port, with signals, and with what it started."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.errors import ConfigError
from serve_app.serving.run import run

PROGRAM = """
import sys
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.run import run
config = ServeConfig(registry=sys.argv[1], family="none", engine=EngineConfig(device="cpu"))
started = lambda address: print(address, flush=True)
run(config, UserConfig(channel="stable"), int(sys.argv[2]), on_started=started)
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


@pytest.mark.ray
def test_sigterm_ends_every_process(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path), str(port)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline().decode().strip() == f"http://127.0.0.1:{port}"
            assert httpx.get(f"http://127.0.0.1:{port}/ready", timeout=30).status_code == 503
            children = list(_descendants(program.pid))
            assert len(children) > 3
            program.send_signal(signal.SIGTERM)
            output, _ = program.communicate(timeout=60)
        finally:
            program.kill()
    assert program.returncode == 0
    assert b"ended" in output
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline, "processes are left over"
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
