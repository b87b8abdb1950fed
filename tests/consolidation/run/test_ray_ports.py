"""Ray's node need not wait until its agents have started."""

import inspect
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray._private.node
import ray._private.services as services
import ray._raylet

from consolidation.run.ray_ports import PATIENCE, START, UNUSED, USED, known_ports

NODE = ray._private.node.Node
RAYLET: Any = ray._raylet


def test_ports_are_written_before_the_node_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, int] = {}

    def started(self: SimpleNamespace, memory: int) -> None:
        for name in (*UNUSED, USED):
            found[name] = RAYLET.wait_for_persisted_port(
                self._session_dir, self._node_id, getattr(RAYLET, name), 100
            )
        found["memory"] = memory

    monkeypatch.setattr(NODE, START, started)
    node = SimpleNamespace(
        _session_dir=str(tmp_path),
        _node_id=ray.NodeID.from_random().hex(),
        _node_ip_address="127.0.0.1",
        _ray_params=SimpleNamespace(runtime_env_agent_port=None),
    )
    with known_ports(180) as listens:
        assert listens(), "nothing was started"
        getattr(NODE, START)(node, memory=7)
        assert not listens()
        with socket.create_server(("127.0.0.1", node._ray_params.runtime_env_agent_port)):
            assert listens()
    port = node._ray_params.runtime_env_agent_port
    assert 0 < port < 65536
    assert found == {**dict.fromkeys(UNUSED, -1), USED: port, "memory": 7}
    assert getattr(NODE, START) is started


def test_the_node_waits_as_long_as_the_start_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(PATIENCE, raising=False)
    with known_ports(180):
        assert os.environ[PATIENCE] == "180000"
    assert PATIENCE not in os.environ
    monkeypatch.setenv(PATIENCE, "5000")
    with known_ports(180):
        assert os.environ[PATIENCE] == "5000"


def test_a_ray_that_calls_them_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RAYLET, USED)
    before = getattr(NODE, START)
    with known_ports(180):
        assert getattr(NODE, START) is before


def test_ray_passes_its_port_on_to_the_agent_of_environments() -> None:
    """Fails when another version of Ray takes the port from elsewhere."""
    assert "self._ray_params.runtime_env_agent_port" in inspect.getsource(getattr(NODE, START))
    source = inspect.getsource(services.start_raylet)
    assert 'f"--runtime-env-agent-port={runtime_env_agent_port}"' in source
