"""`run`: what it does with its port, with signals, and with what it started."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serve_app.bench.http.processor_time import running
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.errors import ConfigError
from serve_app.serving.run import free_port, run, wait_for_the_end
from tests.serving.family import TinyFamily
from tests.support.sockets import listening, num_listening

_LONG: dict[str, Any] = {"max_tokens": 200, "n": 8, "extra_body": {"ignore_eos": True}}
"""An answer that takes a second and more."""
PROGRAM = """
import sys
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.run import run
from consolidation.run.ray_start import patient_start
engine = EngineConfig(device="cpu", dtype="float32", kv_tokens=8192)
config = ServeConfig(registry=sys.argv[1], family="tiny", engine=engine, drain_s=4)
started = lambda address: print(address, flush=True)
say = lambda line: print(line, file=sys.stderr, flush=True)
user, port = UserConfig(channel="stable"), int(sys.argv[2])
run(config, user, port, ingresses=2, on_started=started, say=say, starting=patient_start)
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_then_goes_to_the_handler_that_was_there(number: int) -> None:
    done: list[object] = []
    before = signal.signal(number, lambda got, _: done.append(got))
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        wait_for_the_end(lambda: done.append("drained"))
        assert done == ["drained", number]
        os.kill(os.getpid(), number)
        assert done == ["drained", number, number]
    finally:
        signal.signal(number, before)


def test_a_second_signal_ends_draining_at_once() -> None:
    done: list[object] = []
    before = signal.signal(signal.SIGTERM, lambda got, _: done.append(got))

    def drain() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(30)
        done.append("drained")

    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        begun = time.monotonic()
        wait_for_the_end(drain)
        assert time.monotonic() - begun < 10
        assert done == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


class Started:
    """`run` in a process of its own, with two ingresses, and no release before `serve`."""

    def __init__(
        self,
        program: "subprocess.Popen[bytes]",
        terminal: Path,
        port: int,
        family: TinyFamily,
        release: str,
    ) -> None:
        self.program = program
        self.terminal = terminal
        self.family = family
        self.release = release
        self.port = port
        self.address = f"http://127.0.0.1:{port}"

    def replicas(self, of: str) -> list[int]:
        processes = {process.pid: process.command for process in running()}
        below = _descendants(self.program.pid)
        return [pid for pid in below if f":{of}" in processes.get(pid, "")]

    def ingresses(self) -> list[int]:
        return self.replicas("Ingress")

    def has_said(self, words: str) -> bool:
        return words in self.terminal.read_text()

    def serve(self) -> None:
        """Returns when the release answers."""
        self.family.registry.move_channel("stable", self.release)
        _until(self.is_ready, 60)

    def is_ready(self) -> bool:
        return httpx.get(f"{self.address}/ready", timeout=30).status_code == 200

    @contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        base = f"{self.address}/v1"
        with openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60) as client:
            yield client

    def version(self) -> int:
        """The status of an answer on a new connection."""
        return httpx.get(f"{self.address}/version", timeout=10).status_code


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    port = free_port()
    family = TinyFamily(tmp_path_factory.mktemp("family"))
    family.make_models("ab")
    release = family.publish("ab")
    arguments = [sys.executable, "-c", PROGRAM, family.url, str(port)]
    terminal = tmp_path_factory.mktemp("terminal") / "said"
    with (
        terminal.open("wb") as said,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=said) as program,
    ):
        try:
            assert program.stdout is not None
            found = Started(program, terminal, port, family, release)
            assert program.stdout.readline().decode().strip() == found.address
            assert httpx.get(f"{found.address}/ready", timeout=30).status_code == 503
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
def test_a_start_says_what_it_does_and_how_long_that_took(started: Started) -> None:
    _until(lambda: started.has_said("the endpoint runs after"), 10)
    said = started.terminal.read_text()
    phases = (
        "starting Ray\n",
        r"Ray runs after [0-9.]+ s; whole logs are in /.*/logs\n",
        "starting the endpoint\n",
        "engine: importing torch and transformers\n",
        r"engine: torch and transformers are imported after [0-9.]+ s\n",
        r"the endpoint runs after [0-9.]+ s\n",
    )
    found = [re.search(each, said) for each in phases]
    places = [each.start() for each in found if each is not None]
    assert len(places) == len(phases), said
    assert places == sorted(places)


@pytest.mark.ray
def test_no_process_runs_or_imports_what_it_does_not_need(started: Started) -> None:
    _until(lambda: len(started.ingresses()) == 2, 30)
    for pid in (started.program.pid, *started.ingresses()):
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    below = set(_descendants(started.program.pid))
    commands = [each.command for each in running() if each.pid in below]
    assert [one for one in commands if re.search("dashboard.py|monitor.py", one)] == []


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
    ended = f"the ingress (process {killed}) has ended; another one starts\n"
    _until(lambda: started.has_said(ended), 5)
    _until(lambda: len(set(started.ingresses()) - {killed}) == 2, 60)
    _until(lambda: num_listening(started.port) == 2, 30)
    os.kill(left, signal.SIGKILL)
    _until(lambda: num_listening(started.port) == 1, 5)
    assert started.version() == 200


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_killed_engine_has_not_answered_is_answered_by_the_next(started: Started) -> None:
    started.serve()
    with started.client() as client, ThreadPoolExecutor(30) as pool:
        expected, _ = _outcome(client)
        whole, _ = _outcome(client, **_LONG)
        [engine] = started.replicas("Engine")
        asking = [pool.submit(_outcome, client, **_LONG) for _ in range(4)]
        time.sleep(0.3)  # so that it has accepted them
        os.kill(engine, signal.SIGSTOP)  # and has answered none
        assert not any(each.done() for each in asking)
        late, _ = _outcome(client, extra_headers={"x-request-timeout-seconds": "0.5"})
        assert late == "deadline_exceeded, again never"
        os.kill(engine, signal.SIGKILL)
        asking_later = []
        for _ in range(20):
            asking_later.append(pool.submit(_outcome, client))
            time.sleep(0.1)
        assert [each.result(90)[0] for each in asking] == [whole] * 4
        found = [each.result(90) for each in asking_later]
        later = "engine_unavailable, again later"
        refused = [seconds for said, seconds in found if said == later]
        assert {said for said, _ in found} <= {expected, later}
        assert refused
        assert max(refused) < 2
        _until(lambda: _outcome(client)[0] == expected, 5)


@pytest.mark.ray
def test_sigterm_lets_answers_end_and_ends_every_process(started: Started) -> None:
    started.serve()
    children = list(_descendants(started.program.pid))
    assert len(children) > 3
    [engine] = started.replicas("Engine")
    with started.client() as client:
        short, long = _stream(client, 120, n=1), _stream(client, 200, n=8)
        assert (next(short), next(long)) == ("", "")
        started.program.send_signal(signal.SIGTERM)
        _until(lambda: not started.is_ready(), 4)
        with pytest.raises(openai.APIStatusError) as caught:
            _answer(client)
        assert (caught.value.status_code, caught.value.code) == (503, "draining")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert list(short)[-1] == "length"
        os.kill(engine, signal.SIGSTOP)  # so that the other does not end in time
        with pytest.raises(openai.APIError, match="shutting down") as cut:
            list(long)
        assert cut.value.code == "draining"
    output, _ = started.program.communicate(timeout=60)
    assert started.program.returncode == 0
    assert b"ended" in output
    assert started.has_said("; whole logs are in /")
    assert started.has_said("has the models a, b\n")
    assert started.has_said(f"engine: serving release {started.release} after ")
    assert not started.has_said("the engine (")
    _until(lambda: not any(_alive(pid) for pid in children), 20)


def _outcome(client: openai.OpenAI, **options: Any) -> tuple[str, float]:
    """An answer, or the code of a refusal and whether to ask again; and the seconds it took."""
    begun = time.monotonic()
    try:
        said = _answer(client, **options)
    except openai.APIStatusError as error:
        is_later = int(error.response.headers.get("retry-after", 0)) >= 1
        said = f"{error.code}, again {'later' if is_later else 'never'}"
    return said, time.monotonic() - begun


def _answer(client: openai.OpenAI, max_tokens: int = 8, **options: Any) -> str:
    answer = client.completions.create(
        model="a", prompt="hello", max_tokens=max_tokens, temperature=0, **options
    )
    text: str = answer.choices[0].text
    return text


def _stream(client: openai.OpenAI, max_tokens: int, n: int) -> Iterator[str]:
    """Why a choice ends, or an empty text, chunk by chunk."""
    stream: Any = client.completions.create(
        model="b",
        prompt="hello",
        max_tokens=max_tokens,
        n=n,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for chunk in stream:
        yield chunk.choices[0].finish_reason or ""


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
