"""Dashboards as Grafana reads them. Knows no metric.

The format is Grafana's dashboard JSON model, schema version 39 (Grafana 10.4).
"""

from collections.abc import Sequence
from typing import Any

from serve_app.monitoring.panels import Dashboard, Panel, Variable

_WIDTH = 24
_HEIGHTS = {True: 4, False: 8}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard to be imported, or mounted for Grafana's sidecar."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["expertpool"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), *map(_variable, dashboard.variables)]},
        "panels": _placed(dashboard),
    }


def _placed(dashboard: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for title, panels in dashboard.rows:
        at = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": title, "gridPos": at, "panels": []}
        )
        top += 1
        for line in _lines(panels):
            width, height = _WIDTH // len(line), max(_HEIGHTS[panel.is_now] for panel in line)
            for index, panel in enumerate(line):
                at = {"x": index * width, "y": top, "w": width, "h": height}
                found.append({"id": len(found) + 1, "gridPos": at, **_panel(panel)})
            top += height
    return found


def _lines(panels: Sequence[Panel], most: int = 4) -> list[Sequence[Panel]]:
    """As many beside each other as go evenly, at most four."""
    per_line = len(panels) if len(panels) <= most else 3
    return [panels[start : start + per_line] for start in range(0, len(panels), per_line)]


def _panel(panel: Panel) -> dict[str, Any]:
    stacking = {"mode": "normal" if panel.stacked else "none"}
    custom = {} if panel.is_now else {"custom": {"fillOpacity": 10, "stacking": stacking}}
    return {
        "type": "stat" if panel.is_now else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, **custom}, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}} if panel.is_now else {},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }


def _variable(variable: Variable) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": variable.name,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({variable.metric}, {variable.label})",
        "refresh": 2,
        "sort": 1,
        "includeAll": variable.has_all,
        "multi": variable.has_all,
    }
    if variable.has_all:
        found["allValue"] = ".*"
    return found
