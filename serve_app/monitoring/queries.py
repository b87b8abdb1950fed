"""Queries in PromQL, and panels of one kind of query. Knows no dashboard."""

from serve_app.monitoring.panels import Panel, Query, Unit
from serve_app.serving.metrics.metric_row import PREFIX

_OVER = "[$__rate_interval]"
HTTP = f'__name__=~"(ray_)?{PREFIX}http_requests_total"'
"""Answers of ingresses: on one machine by their own pages, in a cluster by Ray's metrics."""


def rate(name: str, by: str = "", where: str = "") -> str:
    """Of a counter, each second, summed over all labels but `by`."""
    grouped = f" by ({by}) " if by else ""
    return f"sum{grouped}(rate({PREFIX}{name}{{{where}}}{_OVER}))"


def quantile(name: str, share: float, by: str = "", where: str = "") -> str:
    """Of a histogram over all replicas."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', labels, where)})"


def total(name: str, by: str = "", where: str = "") -> str:
    grouped = f" by ({by}) " if by else ""
    return f"sum{grouped}({PREFIX}{name}{{{where}}})"


def panel(
    title: str, unit: Unit, expr: str, legend: str = "", is_now: bool = False, stacked: bool = False
) -> Panel:
    return Panel(title, unit, (Query(expr, legend),), is_now, stacked)


def quantiles(title: str, name: str, where: str = "") -> Panel:
    """Half, nearly all, and all but a hundredth."""
    shares = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    found = (Query(quantile(name, share, where=where), legend) for share, legend in shares)
    return Panel(title, "s", tuple(found))
