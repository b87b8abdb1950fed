"""Counts requests for the table of metrics, and writes the page of all metrics."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from consolidation.release import Side
from serve_app.engine.backlog import Backlog
from serve_app.protocol.errors import ErrorCode
from serve_app.service_class import ServiceClass
from serve_app.serving.replica.metrics import METRICS, PREFIX, MetricRow
from serve_app.serving.replica.snapshot import Snapshot

OTHER = "other"
"""The tenant label of those that have none of their own."""


class TenantLabels:
    """The label of each tenant: its own for the first `most` that came, `OTHER` for the rest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: set[str] = set()

    def of(self, tenant: str) -> str:
        if tenant not in self._own and len(self._own) < self._most:
            self._own.add(tenant)
        return tenant if tenant in self._own else OTHER

    def summed(self, backlogs: Mapping[str, Backlog]) -> dict[str, Backlog]:
        """What has these labels together; nothing where a tenant that has one is idle."""
        found = {label: Backlog() for label in self._own}
        for tenant, backlog in backlogs.items():
            found.setdefault(self.of(tenant), Backlog()).add(backlog)
        return found


class Metrics:
    """The metrics of one replica. All times are on one clock, in seconds."""

    def __init__(self, max_tenants: int) -> None:
        self.tenants = TenantLabels(max_tenants)
        self._registry = CollectorRegistry()
        counted = [metric for metric in METRICS if metric.get is None]
        self.histograms = {
            m.name: Histogram(
                PREFIX + m.name, m.help, m.labels, registry=self._registry, buckets=m.buckets
            )
            for m in counted
            if m.kind == "histogram"
        }
        self.counters = {
            m.name: Counter(PREFIX + m.name, m.help, m.labels, registry=self._registry)
            for m in counted
            if m.kind == "counter"
        }

    def refused(self, code: ErrorCode, tenant: str, side: Side) -> None:
        self.counters["request_errors_total"].labels(code, self.tenants.of(tenant), side).inc()

    def request(
        self, model: str, tenant: str, side: Side, service_class: ServiceClass
    ) -> "RequestMetrics":
        return RequestMetrics(self, (model, self.tenants.of(tenant), side, service_class))

    def page(self, look: Snapshot) -> str:
        """The text that Prometheus reads."""
        now = CollectorRegistry()
        now.register(_Collector(look))
        return generate_latest(self._registry).decode() + generate_latest(now).decode()


class RequestMetrics:
    """The numbers of one request.

    Counters that change with every token are looked up once: a lookup costs more than counting.
    """

    def __init__(self, metrics: Metrics, labels: tuple[str, ...]) -> None:
        self._metrics = metrics
        self._labels = labels
        self._between = metrics.histograms["inter_token_latency_seconds"].labels(*labels)
        self._generated = metrics.counters["generation_tokens_total"].labels(*labels)
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}

    def accepted(self, prompt_tokens: int) -> None:
        self._metrics.counters["prompt_tokens_total"].labels(*self._labels).inc(prompt_tokens)

    def token(self, choice: int, begun: float, now: float, queued_s: float | None) -> None:
        """queued_s: given with the first token: how long the choice waited for its first step."""
        if choice in self._last:
            self._between.observe(now - self._last[choice])
        else:
            self._first[choice] = now
            self._observe("time_to_first_token_seconds", now - begun)
            if queued_s is not None:
                self._observe("request_queue_time_seconds", queued_s)
                self._observe("request_prefill_time_seconds", max(0.0, now - begun - queued_s))
        self._last[choice] = now
        self._generated.inc()

    def finished(self, choice: int, reason: str) -> None:
        if choice in self._first:
            self._observe("request_decode_time_seconds", self._last[choice] - self._first[choice])
        self._metrics.counters["request_success_total"].labels(*self._labels, reason).inc()

    def ended(self, begun: float, now: float) -> None:
        self._observe("e2e_request_latency_seconds", now - begun)

    def _observe(self, name: str, seconds: float) -> None:
        self._metrics.histograms[name].labels(*self._labels).observe(seconds)


class _Collector:
    """The metrics whose values are read on request."""

    def __init__(self, look: Snapshot) -> None:
        self._look = look

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            values = metric.get(self._look) if metric.get else {}
            if values:
                family = _family(metric)
                for labels, value in sorted(values.items()):
                    family.add_metric(labels, value)
                yield family


def _family(metric: MetricRow) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return made(PREFIX + metric.name, metric.help, labels=metric.labels)
