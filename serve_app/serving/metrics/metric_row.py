"""What a metric is: a row of the table. Values in; counts nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from serve_app.engine.backlog import Backlog
from serve_app.scheduling.sequence import ModelKey
from serve_app.serving.metrics.snapshot import Snapshot

if TYPE_CHECKING:  # it brings torch, which who only reads the table can do without
    from serve_app.engine.stats import Stats

PREFIX = "expertpool_"
Kind = Literal["counter", "gauge", "histogram"]
Values = Mapping[tuple[str, ...], float]
"""Values by the labels that they have."""
Getter = Callable[[Snapshot], Values]


@dataclass(frozen=True, slots=True)
class MetricRow:
    """name: without the prefix; a counter's ends in `_total`.

    get: reads the values when they are asked for; None: they are counted as requests pass.
    buckets: of a histogram, their upper ends, in seconds.
    """

    name: str
    help: str
    kind: Kind
    labels: tuple[str, ...] = ()
    get: Getter | None = None
    buckets: tuple[float, ...] = ()


def gauge(name: str, text: str, get: Callable[[Snapshot], float]) -> MetricRow:
    """One number of a replica."""
    return MetricRow(name, text, "gauge", get=lambda look: {(): get(look)})


def total(name: str, text: str, get: Callable[[Snapshot], float]) -> MetricRow:
    """One number of a replica that only grows."""
    return MetricRow(name, text, "counter", get=lambda look: {(): get(look)})


def engine_gauge(name: str, text: str, get: "Callable[[Stats], float]") -> MetricRow:
    """One number of the engine; none before there is one."""
    return MetricRow(name, text, "gauge", get=_of_engine(get))


def engine_total(name: str, text: str, get: "Callable[[Stats], float]") -> MetricRow:
    """The same, of one that only grows."""
    return MetricRow(name, text, "counter", get=_of_engine(get))


def by_model(get: "Callable[[Stats], Mapping[ModelKey, int]]") -> Getter:
    """Sequences by model, of all releases together. A model that is served and idle has 0."""

    def values(look: Snapshot) -> Values:
        if look.engine is None:
            return {}
        found: dict[tuple[str, ...], float] = {(name,): 0 for name in look.models}
        for (_, name), number in get(look.engine).items():
            found[(name,)] = found.get((name,), 0) + number
        return found

    return values


def by_tenant(get: Callable[[Backlog], int]) -> Getter:
    """Of the queue, by the tenants' labels."""
    return lambda look: {(label,): get(backlog) for label, backlog in look.backlogs.items()}


def _of_engine(get: "Callable[[Stats], float]") -> Getter:
    return lambda look: {} if look.engine is None else {(): get(look.engine)}
