"""On a busy machine Ray is waited for, to a limit, and then a line says what to do."""

import inspect
from typing import Any

import pytest
import ray._private.node
import ray._private.services as services

from consolidation.errors import RunFailed
from consolidation.run.ray_start import patient_start


class Busy:
    """A node that is there when it was asked for often enough."""

    def __init__(self, times: float) -> None:
        self.left = times

    def __call__(self, gcs_address: str, node_id: str) -> dict[str, str]:
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError("no such node")
        return {"node": f"{gcs_address}/{node_id}"}


def _asked() -> Any:
    return services.get_node("gcs", "n1")


def test_a_node_that_takes_its_time_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(2)
    monkeypatch.setattr(services, "get_node", busy)
    monkeypatch.setattr("consolidation.run.ray_start._PAUSE_S", 0.01)
    with patient_start():
        assert _asked() == {"node": "gcs/n1"}
    assert services.get_node is busy


def test_a_node_that_does_not_come_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = Busy(float("inf"))
    monkeypatch.setattr(services, "get_node", busy)
    with (
        pytest.raises(RunFailed, match=r"^Ray did not start within 0\.05 s: .*try again.*$"),
        patient_start(longest_s=0.05),
    ):
        _asked()
    assert services.get_node is busy


def test_ray_asks_where_it_is_made_to_wait() -> None:
    """Fails when another version of Ray asks elsewhere, and so gives up as early as it likes."""
    assert "ray._private.services.get_node(" in inspect.getsource(ray._private.node.Node.__init__)
