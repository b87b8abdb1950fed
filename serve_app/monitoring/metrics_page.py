"""The page of all metrics, from their table. Decides nothing."""

from collections.abc import Sequence

from serve_app.serving.metrics.metric_row import PREFIX, MetricRow
from serve_app.serving.metrics.metrics_table import (
    ENGINE,
    INGRESS,
    QUEUE,
    RELEASES,
    REQUESTS,
    TEXT,
)

_HEAD = """\
# Metrics

Made of [the table of metrics](../serve_app/serving/metrics/metrics_table.py) by \
`make monitoring`; do not edit it. [operating.md](operating.md#metrics) says where Prometheus \
reads them.

Every series of an engine has the label `replica` too. Counters end in `_total`. A histogram `x` \
has the series `x_bucket` (with `le`), `x_sum` and `x_count`.

| label | what it is |
| --- | --- |
| `replica` | the engine replica, by the name that `/admin` shows |
| `model_name` | the model that answers, never an alias |
| `tenant` | the tenant's name for the first 100 that ask, `other` for the rest |
| `side` | `stable` or `canary` |
| `service_class` | `interactive`, `standard` or `batch` |
| `finished_reason` | `stop`, `length`, … |
| `code` | the code of an error, as answers have it |
| `release` | the id of a release; in `release_info` alone |
| `ingress` | the process that answers HTTP: a page of one ingress has its own series alone |
| `route` | a route as the documentation writes it; `none` for other paths and refused keys |
| `status` | `2xx`, `4xx` or `5xx`; a stream that broke after it began is `2xx` |

With Ray Serve's own tools, Ray's metrics have sums of the counters and gauges by `replica`, \
`model_name`, `code` and `finished_reason`, under `ray_` and the same name, and those of \
ingresses by `route` and `status`.
"""
_SECTIONS = (
    ("Requests", "Counted as requests pass.", REQUESTS),
    ("Releases", "What is served, and what should be.", RELEASES),
    ("The queue", "What runs and waits.", QUEUE),
    ("The engine", "There are none before a release was loaded.", (*ENGINE, *TEXT)),
    ("An ingress", "On its own `/metrics` alone, without `replica`.", INGRESS),
)


def metrics_page() -> str:
    """In Markdown."""
    return "\n".join([_HEAD, *(_section(*section) for section in _SECTIONS)])


def _section(title: str, text: str, rows: Sequence[MetricRow]) -> str:
    lines = [f"## {title}", "", text, "", "| metric | kind | labels | what it is |"]
    lines.append("| --- | --- | --- | --- |")
    for row in rows:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{PREFIX}{row.name}` | {row.kind} | {labels} | {row.help} |")
    return "\n".join(lines) + "\n"
