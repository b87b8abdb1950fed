"""How long requests waited in an endpoint's queue, from its own histograms. Asks no model."""

import itertools
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

NAME = "request_queue_time_seconds"
"""The end of the histogram's name, here and in vLLM."""
MODEL = "model_name"
ALL = "all"
TIMEOUT_S = 10.0
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(slots=True)
class Waits:
    """The counts of a histogram. upto: upper end of a bucket in seconds -> number not longer."""

    seconds: float = 0.0
    number: float = 0.0
    upto: dict[float, float] = field(default_factory=dict)

    def since(self, before: "Waits | None") -> "Waits":
        if before is None:
            return self
        upto = {end: count - before.upto.get(end, 0.0) for end, count in self.upto.items()}
        return Waits(self.seconds - before.seconds, self.number - before.number, upto)

    def spread(self) -> dict[str, float] | None:
        """Mean, and percentiles interpolated within buckets; None if there are no waits."""
        if not self.number:
            return None
        quantiles = {name: self._quantile(share) for name, share in QUANTILES.items()}
        return {"mean": self.seconds / self.number, **quantiles}

    def _quantile(self, share: float) -> float:
        rank = share * self.number
        ends = [(0.0, 0.0), *sorted(self.upto.items())]
        for (start, below), (end, upto) in itertools.pairwise(ends):
            if upto >= rank and upto > below:
                if end == float("inf"):
                    return start
                return start + (end - start) * (rank - below) / (upto - below)
        return ends[-1][0]


def read(url: str) -> dict[str, Waits] | None:
    """By model, and for all; None if the endpoint does not report it."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=TIMEOUT_S) as response:
            return parse(response.read().decode())
    except (OSError, ValueError):
        return None


def parse(text: str) -> dict[str, Waits] | None:
    """Parses the text that Prometheus reads."""
    found: dict[str, Waits] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.endswith(NAME):
            continue
        for sample in family.samples:
            for name in (sample.labels.get(MODEL, ALL), ALL):
                waits = found.setdefault(name, Waits())
                if sample.name.endswith("_sum"):
                    waits.seconds += sample.value
                elif sample.name.endswith("_count"):
                    waits.number += sample.value
                elif sample.name.endswith("_bucket"):
                    end = float(sample.labels["le"])
                    waits.upto[end] = waits.upto.get(end, 0.0) + sample.value
        return found
    return None


def between(
    before: Mapping[str, Waits] | None, after: Mapping[str, Waits] | None
) -> dict[str, dict[str, float] | None]:
    """The waits between two readings, as `outcomes.spread` returns them, by model and for all."""
    if after is None:
        return {}
    return {name: waits.since((before or {}).get(name)).spread() for name, waits in after.items()}
