"""Dashboards, alerts and the page of metrics: whole, current, and of metrics that there are."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.cli.main import run
from serve_app.k8s.kustomize import MANIFESTS
from serve_app.monitoring.alerts import ALERTS, rule_groups
from serve_app.monitoring.dashboards import DASHBOARDS
from serve_app.monitoring.grafana import grafana
from serve_app.monitoring.metrics_page import metrics_page
from serve_app.monitoring.monitoring_files import monitoring_files
from serve_app.monitoring.panels import Dashboard
from serve_app.serving.metrics.metric_row import PREFIX
from serve_app.serving.metrics.metrics_table import INGRESS, METRICS
from tests.monitoring.expressions import faults

ROOT = Path(__file__).parents[2]
QUERIES = [query.expr for each in DASHBOARDS for panel in each.panels for query in panel.queries]
_LEGEND = re.compile(r"{{\s*\$?(?:labels\.)?(\w+)")


def test_what_is_written_is_current() -> None:
    hint = "run `make monitoring`"
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == metrics_page(), hint
    directory = MANIFESTS / "components" / "monitoring" / "data"
    kept = {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}
    assert kept == monitoring_files(), hint


def test_the_page_has_every_metric_once() -> None:
    page = metrics_page()
    for row in (*METRICS, *INGRESS):
        assert page.count(f"| `{PREFIX}{row.name}` |") == 1, row.name


@pytest.mark.parametrize("expr", [*QUERIES, *(alert.expr for alert in ALERTS)])
def test_a_query_asks_for_metrics_and_labels_that_there_are(expr: str) -> None:
    assert list(faults(expr)) == []


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ("sum(expertpool_nothing_total)", "there is no expertpool_nothing_total"),
        ("expertpool_e2e_request_latency_seconds", "there is no"),
        ('expertpool_ready{tenant="x"}', "expertpool_ready has no tenant"),
        ("sum by (release) (expertpool_ready)", "no release in"),
        ("up == 0", "no metric in"),
    ],
)
def test_a_query_that_asks_for_others_is_found(expr: str, fault: str) -> None:
    assert [one for one in faults(expr) if one.startswith(fault)]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is missing")
def test_every_query_is_promql(tmp_path: Path) -> None:
    def checked(exprs: list[str]) -> "subprocess.CompletedProcess[str]":
        rules = [{"record": f"q{n}", "expr": expr} for n, expr in enumerate(exprs)]
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}))
        command = ["promtool", "check", "rules", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    asked = [expr.replace("$__rate_interval", "1m") for expr in QUERIES]
    rules = [rule["expr"] for rule in rule_groups()["groups"][0]["rules"]]
    found = checked([*asked, *rules])
    assert found.returncode == 0, found.stderr
    assert checked(["sum(expertpool_ready"]).returncode != 0


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_a_dashboard_is_one_that_grafana_takes(dashboard: Dashboard) -> None:
    made: dict[str, Any] = json.loads(json.dumps(grafana(dashboard)))
    panels = made["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["targets"]
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    names = {variable["name"] for variable in made["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == names


def test_a_legend_names_labels_that_its_query_keeps() -> None:
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                for label in _LEGEND.findall(query.legend):
                    kept = f"by ({label}" in query.expr or f", {label}" in query.expr
                    assert kept or (label == "replica" and "sum" not in query.expr), query


def test_each_alert_has_a_line_of_the_runbook() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (Expertpool\w+)$", page, re.MULTILINE)
    assert headings == [alert.name for alert in ALERTS]


def test_a_pace_shortens_all_times_of_an_alert() -> None:
    [alert] = [alert for alert in ALERTS if alert.name == "ExpertpoolErrorRate"]
    assert alert.rule()["for"] == "300s"
    assert "[300s]" in alert.rule()["expr"]
    assert alert.rule(0.01)["for"] == "3s"
    assert "[3s]" in alert.rule(0.01)["expr"]


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitoring", str(tmp_path / "made")]) == 0
    written = {path.name for path in (tmp_path / "made").iterdir()}
    assert written == set(monitoring_files())
    assert "alerts.yaml" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert run(["monitoring", str(tmp_path / "file")]) != 0
    assert str(tmp_path / "file") in capsys.readouterr().err.replace("\n", "")
