"""A Ray of our own starts without its dashboard, its metrics and its watchers."""

import inspect
import subprocess
from pathlib import Path

import pytest
import ray._private.node
import ray._private.services as services
import ray.dashboard.agent

from consolidation.run.ray_parts import AGENT, COMMAND, UNNEEDED, few_parts
from consolidation.run.ray_start import patient_start

NODE = ray._private.node.Node


def _command(part: str) -> list[str]:
    found: list[str] = getattr(services, COMMAND)(part, "/session")
    return found


def test_what_is_not_needed_is_not_started_inside_the_block_and_is_after_it() -> None:
    before = {name: getattr(NODE, name) for name in UNNEEDED}
    with few_parts():
        for name in UNNEEDED:
            assert getattr(NODE, name)(None) is None
    assert {name: getattr(NODE, name) for name in UNNEEDED} == before


def test_of_the_commands_only_that_of_the_dashboards_agent_differs() -> None:
    plain = _command(AGENT)
    with few_parts():
        assert _command(AGENT)[:-2] == plain
        assert _command("runtime_env_agent") == plain
    assert _command(AGENT) == plain


def test_what_another_version_of_ray_does_not_have_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in UNNEEDED:
        monkeypatch.delattr(NODE, name)
    monkeypatch.delattr(services, COMMAND)
    with few_parts():
        assert not [name for name in UNNEEDED if hasattr(NODE, name)]
        assert not hasattr(services, COMMAND)


def test_ray_starts_them_where_they_are_left_out() -> None:
    """Fails when another version of Ray starts more than it has to."""
    source = inspect.getsource(NODE)
    assert [name for name in UNNEEDED if f"self.{name}(" not in source] == []
    assert f"{COMMAND}(" in inspect.getsource(services.start_raylet)
    assert "PROCESS_TYPE_DASHBOARD_AGENT" in inspect.getsource(services.start_raylet)
    assert ray._private.ray_constants.PROCESS_TYPE_DASHBOARD_AGENT == AGENT
    assert '"--minimal"' in inspect.getsource(ray.dashboard.agent)


def test_the_agent_runs_the_program_that_it_is_given_without_modules_that_report(
    tmp_path: Path,
) -> None:
    program = tmp_path / "agent.py"
    program.write_text("import sys, ray.dashboard.modules as m; print(sys.argv[1:], m.__path__)")
    with few_parts():
        command = [*_command(AGENT), str(program), "--head"]
    found = subprocess.run(command, capture_output=True, check=True, text=True)
    assert found.stdout == "['--head', '--minimal'] []\n"


def test_what_is_done_meanwhile_is_done_once_before_the_node_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(services, "get_node", lambda *_: done.append("asked"))
    with patient_start(lambda: done.append("meanwhile")):
        services.get_node("gcs", "n1")
        services.get_node("gcs", "n1")
    assert done == ["meanwhile", "asked", "asked"]
