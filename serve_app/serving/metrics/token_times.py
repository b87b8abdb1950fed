"""The distribution that changes with every token: prometheus_client's has a lock for each count.

One thread counts, and another may read: a reader sees each number as it was a moment ago.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily

from serve_app.serving.metrics.metric_row import PREFIX, MetricRow


class TimesOfTokens:
    """Of one series. The last of the counts has what is longer than all bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds


class TokenTimes:
    """A metric of the table, by its labels."""

    def __init__(self, row: MetricRow) -> None:
        self._row = row
        self._series: dict[tuple[str, ...], TimesOfTokens] = {}
        self._ends = [*map(str, row.buckets), "+Inf"]

    def labels(self, *labels: str) -> TimesOfTokens:
        """The series with these labels, which stays the same."""
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = TimesOfTokens(self._row.buckets)
        return found

    def drop(self, model: str) -> None:
        """The series of a model."""
        at = self._row.labels.index("model_name")
        self._series = {each: one for each, one in self._series.items() if each[at] != model}

    def family(self) -> HistogramMetricFamily:
        found = HistogramMetricFamily(
            PREFIX + self._row.name, self._row.help, labels=self._row.labels
        )
        for labels, one in self._series.items():
            below = accumulate(one.counts)
            found.add_metric(labels, list(zip(self._ends, below, strict=True)), one.sum_s)
        return found
