"""Says which ports Ray's agents will have, so that its node does not wait for them to start.

Ray's node reads each port from a file that the agent writes, and ends itself if that takes longer
than 15 s. On a busy machine it does, and Ray has no setting for it. The node then asks the agent of
environments at its port, for as long as a setting says. A driver that connects meanwhile waits in
native code, where a signal would end it with SIGABRT: so it is to wait until that agent listens.
"""

import os
import socket
from collections.abc import Callable, Iterator
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
def known_ports(longest_s: float) -> Iterator[Callable[[], bool]]:
    """Inside the block, `ray.init` writes the ports of its agents before it starts its node.

    Yields whether the agent of environments listens by now. The node waits `longest_s` for it.
    What another version of Ray calls otherwise stays as there.
    """
    node: Any = import_module("ray._private.node").Node
    raylet: Any = import_module("ray._raylet")
    if not all(hasattr(raylet, name) for name in (*UNUSED, USED, "persist_port")):
        yield lambda: True
        return
    start, addresses = getattr(node, START), list[tuple[str, int]]()

    def with_ports(self: Any, *rest: Any, **options: Any) -> None:
        self._ray_params.runtime_env_agent_port = port = _free_port()
        for name, value in [*((name, _NONE) for name in UNUSED), (USED, port)]:
            raylet.persist_port(self._session_dir, self._node_id, getattr(raylet, name), value)
        addresses.append((self._node_ip_address, port))
        start(self, *rest, **options)

    patience = {PATIENCE: os.environ.get(PATIENCE, f"{1000 * longest_s:.0f}")}
    with patch.object(node, START, with_ports), patch.dict(os.environ, patience):
        yield lambda: all(_listens(address) for address in addresses)


def _listens(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=1):
            return True
    except OSError:
        return False


def _free_port() -> int:
    """Free now; the kernel gives it to nobody else who asks for any soon."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port
