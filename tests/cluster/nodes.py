"""Nodes of Ray on one machine, each at a loopback address of its own. Knows no Serve.

`ray start --block` is what KubeRay runs in a pod, and SIGTERM is what the kubelet sends to it.
Each node has its own folder: Ray's nodes that share one take each other's sockets.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from serve_app.cli.processes import descendants
from serve_app.serving.run import free_port
from tests.chaos.endpoint import ROOT, is_alive, wait_until

START_S = 120.0
_STARTED = "Ray runtime started"
_STORE_BYTES = 80_000_000
"""Of each node's object store, which is next to unused here; Ray takes no less."""
_RAY = "import sys; from ray.scripts.scripts import main; sys.exit(main())"


class Node:
    """One `ray start --block`, and all that it starts. Raises: TimeoutError if it does not start.

    address: where it is.   proxy: where Serve's proxy of this node answers, once there is one.
    """

    def __init__(
        self, number: int, out: Path, options: list[str], environment: Mapping[str, str]
    ) -> None:
        """number: the last part of its address, 2 to 254; 127.0.0.1 would be taken for the address
        by which others reach this machine.   out: gets its folder and its log.
        """
        self.address = f"127.0.0.{number}"
        port = free_port()
        self.proxy = f"http://127.0.0.1:{port}"
        self.folder = out / f"n{number}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = out / f"n{number}.log"
        command = [
            *(sys.executable, "-c", _RAY, "start", "--block", "--node-ip-address", self.address),
            *("--temp-dir", str(self.folder), "--object-store-memory", str(_STORE_BYTES)),
            *("--dashboard-agent-listen-port", "0", "--include-log-monitor", "false"),
            *options,
        ]
        own = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(port), "RAY_TMPDIR": str(self.folder)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment, **own},
                start_new_session=True,
            )
        self.pid = self._process.pid

    def until_started(self) -> None:
        def started() -> bool:
            if self._process.poll() is not None:
                raise ChildProcessError(f"{self.log}: ended with {self._process.returncode}")
            return _STARTED in self.log.read_text(encoding="utf-8", errors="replace")

        wait_until(started, START_S, f"a node of Ray starts; see {self.log}")

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

    def pids(self, title: str) -> list[int]:
        """The processes of this node whose title begins so: `ray::ServeReplica:`, say."""
        return [pid for pid in descendants(self.pid) if _title(pid).startswith(title)]


def _title(pid: int) -> str:
    try:
        whole = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return whole.replace(b"\0", b" ").decode(errors="replace")
