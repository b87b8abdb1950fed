"""What KubeRay and an operator do with the image: a head, `serve deploy`, the probes.

The ports are the ones of a pod, since the probes and the healthcheck of the image name them.
"""

import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import httpx

from serve_app.cli.processes import descendants
from tests.chaos.endpoint import is_alive, wait_until
from tests.cluster.manifests import Manifests
from tests.cluster.ports import is_free
from tests.image_check.builder import Image
from tests.support.row import Skipped

ADDRESS = "http://127.0.0.1:8000"
READY_S = 240.0
_DASHBOARD, _AGENT, _HEAD, _PROXY = 8265, 52365, 6379, 8000
_START = (
    "ray start --head --block --node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1 "
    "--num-cpus=4 --num-gpus=1 --resources='{\"ingress\": 1}' --object-store-memory=80000000 "
    f"--port={_HEAD} --dashboard-port={_DASHBOARD} --dashboard-agent-listen-port={_AGENT}"
)
PROBES = (
    f"wget -T 4 -q -O- http://localhost:{_AGENT}/api/local_raylet_healthz | grep success",
    f"wget -T 4 -q -O- http://localhost:{_DASHBOARD}/api/gcs_healthz | grep success",
)
"""Of the head, as KubeRay 1.7 writes them into its pod."""


class Pod:
    """Runs until `close`.   manifests: what is deployed.   folder: one that the image may write."""

    def __init__(self, image: Image, manifests: Manifests, folder: Path) -> None:
        """Raises: Skipped if another process has one of the ports."""
        taken = [port for port in (_DASHBOARD, _AGENT, _HEAD, _PROXY) if not is_free(port)]
        if taken:
            raise Skipped(f"another process has port {taken[0]}")
        self._image, self._manifests, self._folder = image, manifests, folder
        self._settings: Mapping[str, str] = {
            **manifests.environment,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",  # KubeRay's variables for `authOptions`
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        command = image.command("bash", "-c", _START, volumes=[folder], environment=self._settings)
        self.log = image.out / "head.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )

    def said(self, command: str) -> str:
        """What a command of bash in the pod prints. Raises: ChildProcessError."""
        return self._image.run(
            "bash", "-c", command, volumes=[self._folder], environment=self._settings
        )

    def until_started(self) -> float:
        """-> seconds until both of KubeRay's probes pass"""
        return wait_until(self._is_started, READY_S, f"the head starts; see {self.log}")

    def deploy(self) -> None:
        file = self._folder / "serve.yaml"
        file.write_text(self._manifests.text(_PROXY), encoding="utf-8")
        self.said(f"serve deploy --address http://127.0.0.1:{_DASHBOARD} {file}")

    def until_ready(self) -> float:
        """-> seconds until a release serves.   Raises: TimeoutError, with `serve status`."""
        try:
            return wait_until(self._is_ready, READY_S, f"a release serves; see {self.log}")
        except TimeoutError as error:
            told = self.said(f"serve status --address http://127.0.0.1:{_DASHBOARD}")
            raise TimeoutError(f"{error}; {told[-2000:]}") from error

    def close(self) -> None:
        for pid in [*descendants(self._process.pid), self._process.pid]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _is_started(self) -> bool:
        if self._process.poll() is not None:
            raise ChildProcessError(f"{self.log}: ended with {self._process.returncode}")
        try:
            return all(self.said(probe) for probe in PROBES)
        except ChildProcessError:
            return False

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{ADDRESS}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
