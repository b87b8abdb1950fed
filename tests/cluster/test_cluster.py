"""How `make cluster-test` judges, and fits manifests to this machine. Its rows need minutes."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.serving.graces import NODE_VARIABLE, graces_of
from tests.cluster.catalogue import ROWS
from tests.cluster.manifests import rendered
from tests.cluster.nodes import TRIES, started
from tests.cluster.ports import kept_ports
from tests.support.row import Result, Row, Short, Skipped, run_row
from tests.support.row_table import exit_code, table

SITE: Any = None


def result_of(what: Exception | None, most_s: int = 60) -> Result:
    def run(_: Any) -> dict[str, Any]:
        if what is not None:
            raise what
        return {"requests": 3}

    return run_row(Row("one", run, "none cut", most_s), SITE)


def test_a_row_that_misses_its_bar_fails_with_what_was_seen() -> None:
    result = result_of(Short("2 cut", {"cut": 2}))
    assert (result.passed, result.seen, result.why) == (False, {"cut": 2}, "2 cut")
    assert exit_code([result_of(None), result]) == 1


def test_a_row_without_its_program_is_skipped_with_a_notice_and_fails_nothing() -> None:
    result = result_of(Skipped("there is no redis-server"))
    assert result.passed is None
    assert exit_code([result]) == 0
    assert "skipped one" in table([result])
    assert "there is no redis-server" in table([result])


def test_what_a_row_raises_is_its_failure_and_says_where() -> None:
    result = result_of(TimeoutError("no RUNNING"))
    assert result.passed is False
    assert __file__ in result.why
    assert "no RUNNING" in result.why


def test_a_row_ends_when_its_time_is_over() -> None:
    def slow(_: Any) -> dict[str, Any]:
        time.sleep(60)
        return {}

    result = run_row(Row("slow", slow, "none cut", most_s=1), SITE)
    assert result.passed is False
    assert "not within 1 s" in result.why
    assert result.seconds < 30


class FakeNode:
    """Ends at once, or has started."""

    def __init__(self, ends: bool) -> None:
        self.log = Path("node.log")
        self.is_killed = False
        self._ends = ends

    def has_started(self) -> bool:
        if self._ends:
            raise ChildProcessError("ended with 1")
        return True

    def kill(self) -> None:
        self.is_killed = True


def test_a_node_that_ends_is_made_anew_and_what_is_left_of_it_ends() -> None:
    made: Any = [FakeNode(ends=True), FakeNode(ends=False)]
    left = iter(made)
    assert started(lambda: next(left)) is made[1]
    assert [node.is_killed for node in made] == [True, False]


def test_a_node_that_always_ends_fails_after_some_tries() -> None:
    made: Any = [FakeNode(ends=True) for _ in range(TRIES)]
    left = iter(made)
    with pytest.raises(ChildProcessError, match="ended with 1"):
        started(lambda: next(left))
    assert all(node.is_killed for node in made)


def test_ports_of_nodes_are_given_to_nobody_who_asks_for_any() -> None:
    ports = kept_ports()
    first = next(ports)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        again = next(kept_ports())
    assert again != first
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert first < again < lowest


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


def test_nodes_get_the_config_and_the_times_of_the_rendered_manifests(tmp_path: Path) -> None:
    made = rendered("/registry", tmp_path, 20, {"device": "cpu"})
    assert made.environment["EXPERTPOOL_REGISTRY"] == "/registry"
    assert float(made.environment[NODE_VARIABLE]) == graces_of(20).node_s
    changed = yaml.safe_load(made.with_changes(engines=2, user={"release": "r"}).text(8123))
    ServeDeploySchema.model_validate(changed)
    [app] = changed["applications"]
    assert app["args"]["device"] == "cpu"
    deployments = {each["name"]: each for each in app["deployments"]}
    engine = deployments["Engine"]
    assert engine["num_replicas"] == 2
    assert engine["user_config"] == {"release": "r"}
    assert engine["graceful_shutdown_timeout_s"] == graces_of(20).engine_s
    assert changed["http_options"]["port"] == 8123
    [before] = made.config["applications"]
    assert before["deployments"][1]["num_replicas"] == 1
