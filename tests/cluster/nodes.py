"""Nodes of Ray on one machine, each at a loopback address of its own. Knows no Serve.

`ray start --block` is what KubeRay runs in a pod, and SIGTERM is what the kubelet sends to it.
Each has its own folder, as a pod has its own disk: nodes that share one take each other's sockets,
and a head takes what its predecessor left there for one that runs.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from serve_app.cli.processes import descendants
from tests.chaos.endpoint import ROOT, is_alive, wait_until

START_S = 120.0
TRIES = 4
_STARTED = b"Ray runtime started"
_STORE_BYTES = 80_000_000
"""Of each node's object store, which is next to unused here; Ray takes no less."""
_RAY = "import sys; from ray.scripts.scripts import main; sys.exit(main())"


class Node:
    """One `ray start --block`, and all that it starts.

    address: where it is.   proxy: where Serve's proxy of this node answers, once there is one.
    """

    def __init__(
        self,
        number: int,
        out: Path,
        port: int,
        options: list[str],
        environment: Mapping[str, str],
    ) -> None:
        """number: the last part of its address, 2 to 254; 127.0.0.1 would be taken for the address
        by which others reach this machine.   out: gets its folder and its log.   port: its proxy's.
        """
        self.address = f"127.0.0.{number}"
        self.proxy = f"http://127.0.0.1:{port}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"n{number}-", dir=out))
        self.log = out / f"{self.folder.name}.log"
        command = [
            *(sys.executable, "-c", _RAY, "start", "--block", "--node-ip-address", self.address),
            *("--temp-dir", str(self.folder), "--object-store-memory", str(_STORE_BYTES)),
            *("--dashboard-agent-listen-port", "0", "--include-log-monitor", "false"),
            *options,
        ]
        own = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(port), "RAY_TMPDIR": str(self.folder)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment, **own},
                start_new_session=True,
            )
        self.pid = self._process.pid

    def has_started(self) -> bool:
        """Raises: ChildProcessError if it has ended."""
        if self._process.poll() is not None:
            raise ChildProcessError(f"{self.log}: ended with {self._process.returncode}")
        return _STARTED in self.log.read_bytes()

    def told_to_end(self) -> None:
        """SIGTERM, as from the kubelet. Returns at once."""
        self._process.send_signal(signal.SIGTERM)

    def ended(self, within_s: float) -> float:
        """-> seconds until `ray start` had ended.   Raises: TimeoutError."""
        return wait_until(
            lambda: self._process.poll() is not None, within_s, f"{self.address} ends"
        )

    def kill(self) -> None:
        """SIGKILL to all of it, as when its machine fails."""
        pids = [self.pid, *descendants(self.pid)]
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def started(make: Callable[[], Node]) -> Node:
    """A node that has started. One that ends before is made anew, as the kubelet does: Ray gives up
    if its agents take longer than 15 s to start, as on a busy machine. Raises: as the last.
    """
    for _ in range(TRIES - 1):
        with suppress(ChildProcessError):
            return _until_started(make())
    return _until_started(make())


def _until_started(node: Node) -> Node:
    try:
        wait_until(node.has_started, START_S, f"a node of Ray starts; see {node.log}")
    except BaseException:
        node.kill()
        raise
    return node
