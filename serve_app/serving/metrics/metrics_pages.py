"""The text that Prometheus reads, and families on their way to it. Counts nothing."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from serve_app.serving.metrics.metric_row import PREFIX, Values
from serve_app.serving.metrics.metrics_table import INGRESS

PlainFamily = tuple[str, str, str, list[tuple[str, dict[str, str], float]]]
"""Name, help, kind and samples: what processes send each other."""


class Collected(Collector):
    """A registry's collector of families that `read` gives, each time it is asked."""

    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Family]:
        yield from self._read()


def registry_of(read: Callable[[], Iterable[Family]]) -> CollectorRegistry:
    """What prometheus_client writes a page of."""
    registry = CollectorRegistry()
    registry.register(Collected(read))
    return registry


def page(families: Iterable[Family]) -> str:
    """In Prometheus's text format."""
    return generate_latest(registry_of(lambda: families)).decode()


def plain(families: Iterable[Family]) -> list[PlainFamily]:
    """Without exemplars and times."""
    return [
        (one.name, one.documentation, one.type, [(s.name, s.labels, s.value) for s in one.samples])
        for one in families
    ]


def merged(pages: Iterable[Iterable[PlainFamily]]) -> list[Family]:
    """Of several replicas: each family once, with the series of all."""
    found: dict[str, Family] = {}
    for families in pages:
        for name, text, kind, samples in families:
            family = found.setdefault(name, Family(name, text, kind))
            for sample in samples:
                family.add_sample(*sample)
    return list(found.values())


def ingress_families(keys_broken: bool | None, num_lost: int | None, http: Values) -> list[Family]:
    """An ingress's own metrics, in the order of the table. None: it has no such thing.

    http: requests, by the labels of that metric.
    """
    plain: list[Values] = [{} if one is None else {(): one} for one in (keys_broken, num_lost)]
    families: list[Family] = []
    for row, values in zip(INGRESS, (*plain, http), strict=True):
        made = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
        family = made(PREFIX + row.name, row.help, labels=row.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        if values:
            families.append(family)
    return families
