"""How `make cluster-test` judges, and fits manifests to this machine. Its rows need minutes."""

import time
from pathlib import Path
from typing import Any

import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.serving.graces import NODE_VARIABLE, graces_of
from tests.cluster.catalogue import ROWS
from tests.cluster.manifests import rendered
from tests.cluster.row import Result, Row, Short, Skipped, run_row
from tests.cluster.table import exit_code, table

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
