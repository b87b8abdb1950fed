"""The files for Prometheus and Grafana, by name. Writes none."""

import json
from collections.abc import Mapping

import yaml

from serve_app.monitoring.alerts import prometheus_rule, rule_groups
from serve_app.monitoring.dashboards import DASHBOARDS
from serve_app.monitoring.grafana import grafana


def monitoring_files() -> dict[str, str]:
    """Dashboards to import, rules for Prometheus, and the same rules for its operator."""
    dashboards = {
        f"{each.uid}.json": json.dumps(grafana(each), indent=2) + "\n" for each in DASHBOARDS
    }
    return {
        **dashboards,
        "alerts.yaml": _yaml(rule_groups()),
        "prometheus-rule.yaml": _yaml(prometheus_rule()),
    }


def _yaml(value: Mapping[str, object]) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=10_000)
