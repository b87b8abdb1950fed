"""An endpoint's processes by what they are, and its health; and one that is started for faults."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from serve_app.bench.http.processor_time import parts, running
from serve_app.cli.processes import descendants
from serve_app.serving.run import free_port

ROOT = Path(__file__).parents[2]
EXPERTPOOL = "import sys; from serve_app.cli.main import run; sys.exit(run(sys.argv[1:]))"
START_S = 240.0
STOP_S = 60.0
NONE: Mapping[str, str] = {}


class Watched:
    """An endpoint that runs. root: the process that all of its processes are below."""

    def __init__(self, address: str, root: int, key: str) -> None:
        """key: with the scopes `metrics` and `admin`; any text where there are no keys."""
        self.address = address
        self._root = root
        self._http = httpx.Client(base_url=address, timeout=10, headers={"x-api-key": key})

    def close(self) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        try:
            return self._http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def status(self) -> dict[str, Any]:
        """What `/health` tells an operator: the details, with the engine's figures among them."""
        detail: dict[str, Any] = self._http.get("/health").json()["detail"]
        return {**detail, **detail.get("engine", {})}

    def serving(self) -> str | None:
        """The release; None while it does not answer."""
        try:
            told = self._http.get("/ready").json()
        except (httpx.TransportError, ValueError):
            return None
        release: str | None = told.get("release")
        return release

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = re.findall(
            rf"^expertpool_{name}(?:{{[^}}]*}})? (\S+)$", self._http.get("/metrics").text, re.M
        )
        return sum(float(line) for line in lines)

    def pids(self, part: str) -> list[int]:
        """The processes that are this part, as `processor_time` calls it, without its children."""
        now = running()
        found = parts(self._root, -1, now)
        parent = {process.pid: process.parent for process in now}
        own = {pid for pid, name in found.items() if name == part}
        return sorted(pid for pid in own if parent[pid] not in own)

    def processes(self) -> dict[int, str]:
        """All that belong to it, by what they are."""
        return parts(self._root, -1, running())


class Endpoint(Watched):
    """Runs until `stop`. Raises: TimeoutError if it serves nothing in time."""

    def __init__(
        self, options: Sequence[str], out: Path, *, key: str, variables: Mapping[str, str] = NONE
    ) -> None:
        """options: of `serve`, beyond device and port.   out: gets its log.   key: see `Watched`.
        variables: of its environment, beside those of this process.
        """
        self.log = out / f"serve-{time.monotonic_ns()}.log"
        port = free_port()
        command = [
            *(sys.executable, "-c", EXPERTPOOL, "serve", "--port", str(port)),
            *("--device", "cpu", "--dtype", "float32", *options),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{port}"
        super().__init__(address, self._process.pid, key)
        begun = time.monotonic()
        try:
            wait_until(self.is_ready, START_S, f"the endpoint serves a release; see {self.log}")
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - begun

    def told_to_end(self) -> int:
        """Sends SIGTERM, and waits. -> its exit code"""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=STOP_S)

    def stop(self) -> None:
        """Ends everything that it started, whatever state it is in."""
        below = descendants(self._process.pid)
        try:
            if self._process.poll() is None:
                self.told_to_end()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in below:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.close()


def is_alive(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped counts as gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """-> seconds that it took.   Raises: TimeoutError, which says what did not come to hold."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() > begun + seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - begun
