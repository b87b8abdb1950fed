"""Says which ports Ray's agents will have, so that its node does not wait for them to start.

Ray's node reads each port from a file that the agent writes, and ends itself if that takes longer
than 15 s. On a busy machine it does, and Ray has no setting for it. The node then asks the agent of
environments at its port, for as long as a setting says.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

UNUSED = ("METRICS_AGENT_PORT_NAME", "METRICS_EXPORT_PORT_NAME", "DASHBOARD_AGENT_LISTEN_PORT_NAME")
"""Names, in `ray._raylet`, of ports that the agent of the dashboard has only with its modules."""
USED = "RUNTIME_ENV_AGENT_PORT_NAME"
START = "start_raylet"
"""The method of Ray's node that starts the process that asks."""
PATIENCE = "RAY_agent_register_timeout_ms"
_NONE = -1


@contextmanager
def known_ports(longest_s: float) -> Iterator[None]:
    """Inside the block, `ray.init` writes the ports of its agents before it starts its node.

    The node then waits `longest_s` for the agent of environments. What another version of Ray
    calls otherwise stays as there.
    """
    node: Any = import_module("ray._private.node").Node
    raylet: Any = import_module("ray._raylet")
    if not all(hasattr(raylet, name) for name in (*UNUSED, USED, "persist_port")):
        yield
        return
    start = getattr(node, START)

    def with_ports(self: Any, *rest: Any, **options: Any) -> None:
        self._ray_params.runtime_env_agent_port = port = _free_port()
        for name, value in [*((name, _NONE) for name in UNUSED), (USED, port)]:
            raylet.persist_port(self._session_dir, self._node_id, getattr(raylet, name), value)
        start(self, *rest, **options)

    patience = {PATIENCE: os.environ.get(PATIENCE, f"{1000 * longest_s:.0f}")}
    with patch.object(node, START, with_ports), patch.dict(os.environ, patience):
        yield


def _free_port() -> int:
    """Free now; the kernel gives it to nobody else who asks for any soon."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port
