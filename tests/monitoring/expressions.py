"""What a query in PromQL speaks of: metrics, and labels with them. Parses no more than that."""

import re
from collections.abc import Iterator

from serve_app.serving.metrics.metric_row import PREFIX
from serve_app.serving.metrics.metrics_table import INGRESS, METRICS

_METRIC = re.compile(rf"({PREFIX}\w+)(?:{{([^}}]*)}})?")
_GROUPED = re.compile(r"\b(?:by|on|without) \(([^)]*)\)")
_MATCH = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_OF_ALL = frozenset({"replica"})


def _series() -> dict[str, frozenset[str]]:
    found = {}
    for row in METRICS:
        labels, name = frozenset(row.labels) | _OF_ALL, f"{PREFIX}{row.name}"
        if row.kind == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
            found[f"{name}_sum"] = found[f"{name}_count"] = labels
        else:
            found[name] = labels
    return found | {f"{PREFIX}{row.name}": frozenset(row.labels) for row in INGRESS}


SERIES = _series()
"""The labels of each series that a replica or an ingress has."""


def faults(expr: str) -> Iterator[str]:
    """Metrics and labels that there are not."""
    labels: set[str] = set()
    names = _METRIC.findall(expr)
    if not names:
        yield f"no metric in {expr}"
    for name, matched in names:
        if name not in SERIES:
            yield f"there is no {name}"
            continue
        labels |= SERIES[name]
        yield from (
            f"{name} has no {label}"
            for label in _MATCH.findall(matched)
            if label not in SERIES[name]
        )
    for group in _GROUPED.findall(expr):
        yield from (
            f"no {label} in {expr}" for label in re.findall(r"\w+", group) if label not in labels
        )
