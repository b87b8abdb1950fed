"""Counts requests for the table of metrics, and gives all metrics of a replica as families."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from consolidation.release import Side
from serve_app.engine.backlog import Backlog
from serve_app.protocol.errors import ErrorCode
from serve_app.service_class import ServiceClass
from serve_app.serving.metrics.metric_row import PREFIX, MetricRow
from serve_app.serving.metrics.metrics_table import BETWEEN_TOKENS, METRICS
from serve_app.serving.metrics.snapshot import Snapshot
from serve_app.serving.metrics.token_times import TokenTimes

OTHER = "other"
"""The tenant label of those that have none of their own."""
_LONGEST_ID = 120
"""Of characters that an exemplar has room for."""


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


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a replica, by some of its labels.   is_total: whether it only grows."""

    name: str
    help: str
    labels: Mapping[str, str]
    value: float
    is_total: bool


class Metrics:
    """The metrics of one replica, `replica`. All times are on one clock, in seconds."""

    def __init__(self, max_tenants: int, replica: str) -> None:
        self.tenants = TenantLabels(max_tenants)
        self._replica = replica
        self._registry = CollectorRegistry()
        counted = [metric for metric in METRICS if metric.get is None]
        self.histograms = {
            m.name: Histogram(
                PREFIX + m.name, m.help, m.labels, registry=self._registry, buckets=m.buckets
            )
            for m in counted
            if m.kind == "histogram" and m is not BETWEEN_TOKENS
        }
        self.between_tokens = TokenTimes(BETWEEN_TOKENS)
        self.counters = {
            m.name: Counter(PREFIX + m.name, m.help, m.labels, registry=self._registry)
            for m in counted
            if m.kind == "counter"
        }
        self._models: set[str] = set()

    def refused(self, code: ErrorCode, tenant: str, side: Side) -> None:
        self.counters["request_errors_total"].labels(code, self.tenants.of(tenant), side).inc()

    def request(
        self, model: str, tenant: str, side: Side, service_class: ServiceClass, request: str
    ) -> "RequestMetrics":
        """request: its id, for exemplars."""
        self._models.add(model)
        labels = model, self.tenants.of(tenant), side, service_class
        return RequestMetrics(self, labels, request)

    def keep(self, models: Collection[str]) -> None:
        """Drops the series of all other models: no release has them any more."""
        for name in sorted(self._models.difference(models)):
            for row in METRICS:
                is_counted = row.get is None and row is not BETWEEN_TOKENS
                if is_counted and "model_name" in row.labels:
                    found = self.counters.get(row.name) or self.histograms[row.name]
                    found.remove_by_labels({"model_name": name})
            self.between_tokens.drop(name)
            self._models.discard(name)

    def families(self, look: Snapshot) -> list[Family]:
        """All of them, each series with the label `replica`."""
        families = [self.between_tokens.family(), *self._registry.collect(), *_read(look)]
        for family in families:
            family.samples = [
                each._replace(labels={**each.labels, "replica": self._replica})
                for each in family.samples
                if not each.name.endswith("_created")
            ]
        return families

    def figures(self, look: Snapshot, labels: Collection[str]) -> list[Figure]:
        """Sums of counters and gauges over all labels but these. No distributions, no releases."""
        counted = [family for counter in self.counters.values() for family in counter.collect()]
        sums: dict[tuple[str, tuple[tuple[str, str], ...]], Figure] = {}
        for family in (*counted, *_read(look)):
            for sample in family.samples:
                if sample.name.endswith("_created") or "release" in sample.labels:
                    continue
                kept = tuple(
                    (name, sample.labels[name]) for name in labels if name in sample.labels
                )
                before = sums.get((sample.name, kept))
                value = sample.value + (0.0 if before is None else before.value)
                is_total = family.type == "counter"
                text = family.documentation
                sums[(sample.name, kept)] = Figure(sample.name, text, dict(kept), value, is_total)
        return list(sums.values())


class RequestMetrics:
    """The numbers of one request.

    Counters that change with every token are looked up once: a lookup costs more than counting.
    Times of the whole request have its id as exemplar, where Prometheus asks for such.
    """

    def __init__(self, metrics: Metrics, labels: tuple[str, ...], request: str) -> None:
        self._exemplar = {"request": request} if len(request) <= _LONGEST_ID else None
        self.num_prompt = 0
        self.num_generated = 0
        self._metrics = metrics
        self._labels = labels
        self._between = metrics.between_tokens.labels(*labels)
        self._generated = metrics.counters["generation_tokens_total"].labels(*labels)
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}

    def accepted(self, prompt_tokens: int) -> None:
        self.num_prompt = prompt_tokens
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
        self.num_generated += 1

    def finished(self, choice: int, reason: str) -> None:
        if choice in self._first:
            self._observe("request_decode_time_seconds", self._last[choice] - self._first[choice])
        self._metrics.counters["request_success_total"].labels(*self._labels, reason).inc()

    def ended(self, begun: float, now: float) -> None:
        self._observe("e2e_request_latency_seconds", now - begun)

    def _observe(self, name: str, seconds: float) -> None:
        self._metrics.histograms[name].labels(*self._labels).observe(seconds, self._exemplar)


def _read(look: Snapshot) -> Iterator[Family]:
    """The metrics whose values are read when they are asked for."""
    for metric in METRICS:
        values = metric.get(look) if metric.get else {}
        if values:
            family = _family(metric)
            for labels, value in sorted(values.items()):
                family.add_metric(labels, value)
            yield family


def _family(metric: MetricRow) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return made(PREFIX + metric.name, metric.help, labels=metric.labels)
