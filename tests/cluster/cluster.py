"""A head and workers, and what is deployed on them. Asks Serve as KubeRay does."""

import json
import os
import secrets
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.endpoint import ROOT, wait_until
from tests.cluster.manifests import Manifests
from tests.cluster.nodes import Node, started
from tests.cluster.ports import kept_ports
from tests.cluster.redis_server import Redis

RUNNING_S = 180.0
"""By then a deployment runs, on a machine that others may share."""
_HEAD = 2
_SERVE = "import sys; from ray.serve.scripts import cli; sys.exit(cli())"
_WORKER = ["--num-cpus", "4", "--num-gpus", "1", "--resources", '{"ingress": 1}']
"""A GPU and an ingress: the pods of both groups of the manifests in one."""


class Cluster:
    """Runs until `close`.   manifests: whose environment all nodes get."""

    def __init__(self, out: Path, manifests: Manifests, redis: Redis | None = None) -> None:
        """out: an existing folder.   redis: where the head keeps what it knows."""
        token = out / "token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        self.out = out
        self._environment = {
            **manifests.environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            **(redis.nodes if redis else {}),
        }
        self._redis = redis
        self._number = count(_HEAD + 1)
        self._ports = kept_ports()
        self._port, self._dashboard_port = next(self._ports), next(self._ports)
        self._client_port, self.head_proxy_port = next(self._ports), next(self._ports)
        self.dashboard = f"http://127.0.0.1:{self._dashboard_port}"
        bearer = {"Authorization": f"Bearer {token.read_text()}"}
        self._http = httpx.Client(timeout=10, headers=bearer)
        self.head: Node | None = None
        self.workers: list[Node] = []

    def start_head(self) -> None:
        """The first time, or again at the same address after it has died."""
        options = [
            *("--head", "--port", str(self._port), "--num-cpus", "0", "--num-gpus", "0"),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(self._dashboard_port)),
            *("--ray-client-server-port", str(self._client_port)),
            *(self._redis.head_options if self._redis else ()),
        ]
        own = self._redis.head if self._redis else {}
        environment, port = {**self._environment, **own}, self.head_proxy_port
        self.head = started(lambda: Node(_HEAD, self.out, port, options, environment))

    def add_workers(self, number: int) -> None:
        options = ["--address", f"127.0.0.{_HEAD}:{self._port}", *_WORKER]
        for _ in range(number):
            own, port = next(self._number), next(self._ports)
            make = partial(Node, own, self.out, port, options, self._environment)
            self.workers.append(started(make))

    def forget(self, node: Node) -> None:
        """It has ended, or is ended here."""
        self.workers.remove(node)
        node.kill()

    def close(self) -> None:
        for node in [*self.workers, *([self.head] if self.head else [])]:
            node.kill()
        self._http.close()

    def deploy(self, manifests: Manifests) -> None:
        """`serve deploy`, which returns before anything has changed."""
        file = self.out / "serve.yaml"
        file.write_text(manifests.text(self.head_proxy_port), encoding="utf-8")
        self._serve("deploy", str(file))

    def status_by_command(self) -> str:
        """What `serve status` prints."""
        return self._serve("status")

    def application(self) -> dict[str, Any]:
        """What Serve says of ours, as KubeRay reads it. Empty while there is none, or no answer."""
        try:
            answer = self._http.get(f"{self.dashboard}/api/serve/applications/")
            found: dict[str, Any] = answer.json()["applications"].get("expertpool", {})
        except (httpx.HTTPError, ValueError, KeyError):
            return {}
        return found

    def status(self) -> str:
        status: str = self.application().get("status", "none")
        return status

    def pids(self, deployment: str) -> dict[str, int]:
        """The processes of replicas that run, by the address of their node."""
        told = self.application().get("deployments", {}).get(deployment, {})
        running = [each for each in told.get("replicas", []) if each["state"] == "RUNNING"]
        return {each["node_ip"]: each["pid"] for each in running}

    def until_running(self, engines: int, within_s: float = RUNNING_S) -> float:
        """-> seconds until as many engines run, and no other change is under way."""

        def holds() -> bool:
            told = self.application()
            if told.get("status") != "RUNNING":
                return False
            replicas = told["deployments"]["Engine"]["replicas"]
            return [each["state"] for each in replicas] == ["RUNNING"] * engines

        return wait_until(holds, within_s, f"{engines} engines run; status {self.status()}")

    def ray_metrics(self) -> list[str]:
        """Where Ray's own metrics are, as the head tells Prometheus: host and port each."""
        assert self.head is not None
        file = self.head.folder / "prom_metrics_service_discovery.json"
        [told] = json.loads(file.read_text(encoding="utf-8"))
        targets: list[str] = told["targets"]
        return targets

    def until_reached(self) -> float:
        """-> seconds until the proxies of all workers are healthy, as a load balancer asks."""
        return wait_until(
            lambda: all(self.probe(node, "/-/healthz") == 200 for node in self.workers),
            RUNNING_S,
            "the proxies of all workers are healthy",
        )

    def probe(self, node: Node, path: str) -> int:
        """The status of an answer of a node's proxy; 0 where nobody answers."""
        try:
            return httpx.get(f"{node.proxy}{path}", timeout=5).status_code
        except httpx.TransportError:
            return 0

    def _serve(self, command: str, *words: str) -> str:
        run = subprocess.run(
            [sys.executable, "-c", _SERVE, command, "--address", self.dashboard, *words],
            cwd=ROOT,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if run.returncode:
            raise ChildProcessError(f"serve {command}: {run.stderr[-2000:]}")
        return run.stdout
