"""A Redis of its own, for what a head knows. Starts no node."""

import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.serving.run import free_port
from tests.chaos.endpoint import wait_until

PROGRAM = shutil.which("redis-server")
"""None where it is missing."""
LISTENS_S = 30.0


@dataclass(frozen=True, slots=True)
class Redis:
    """How nodes of Ray are told of it, as KubeRay tells them."""

    port: int
    password: str

    @property
    def head(self) -> Mapping[str, str]:
        """Variables of the head."""
        return {
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_external_storage_namespace": "expertpool",
        }

    @property
    def head_options(self) -> list[str]:
        return ["--redis-password", self.password]

    @property
    def nodes(self) -> Mapping[str, str]:
        """Variables of all nodes: they wait for the next head, by default for a minute."""
        return {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}


@contextmanager
def redis(program: str) -> Iterator[Redis]:
    """program: its path."""
    found = Redis(free_port(), secrets.token_hex(16))
    command = [program, "--port", str(found.port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(
        [*command, "--requirepass", found.password],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            wait_until(lambda: _listens(found.port), LISTENS_S, "Redis listens")
            yield found
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
