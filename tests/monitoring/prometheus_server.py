"""A real Prometheus on this machine, for as long as a test needs it."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve_app.monitoring.alerts import rule_groups
from serve_app.serving.run import free_port

SCRAPES = "250ms"
MISSING = shutil.which("prometheus") is None
"""Debian has it as the package `prometheus`."""


class Prometheus:
    """What its API answers."""

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, timeout=10)

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def series(self, expr: str) -> list[dict[str, Any]]:
        """What a query returns now: labels (`metric`) and `value`."""
        answer = self._http.get("/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expr: str) -> float:
        [one] = self.series(expr)
        return float(one["value"][1])

    def firing(self) -> set[str]:
        """The names of alerts that are told."""
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def rules_with_errors(self) -> list[str]:
        [group] = self._http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule["name"] for rule in group["rules"] if rule["health"] == "err"]


@contextmanager
def prometheus(directory: Path, targets: Sequence[str], pace: float) -> Iterator[Prometheus]:
    """Reads these: host and port each.   pace: of our alerts, see `rule_groups`."""
    rules = directory / "alerts.yaml"
    rules.write_text(yaml.safe_dump(rule_groups(pace)))
    config = {
        "global": {"scrape_interval": SCRAPES, "evaluation_interval": SCRAPES},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "engines", "static_configs": [{"targets": list(targets)}]}],
    }
    file, port = directory / "prometheus.yaml", free_port()
    file.write_text(yaml.safe_dump(config))
    command = [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            found = Prometheus(f"http://127.0.0.1:{port}")
            end = time.monotonic() + 60
            while not found.is_ready():
                assert process.poll() is None, "it has ended"
                assert time.monotonic() < end, "it is not ready"
                time.sleep(0.1)
            yield found
        finally:
            process.terminate()
