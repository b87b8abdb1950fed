"""Carries sums into Ray's own metrics once a second. Knows Ray, and nothing of requests.

Distributions are left out: Ray can be given single observations only.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from time import perf_counter

from ray.util.metrics import Counter, Gauge

from serve_app.serving.metrics.counting import Figure

LABELS = ("model_name", "code", "finished_reason")
"""What Ray's series tell apart, beside the replica. Never tenants, nor releases."""
_EVERY_S = 1.0
_SHARE = 0.01
"""The most of the time that carrying may take."""


class RaySums:
    """Of one replica, `replica`. Counters carry what came since the last time.

    A series that has gone, or fallen, begins anew.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._made: dict[str, Counter | Gauge] = {}
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}

    def carry(self, figures: Iterable[Figure]) -> None:
        """Ray's own process collects them from here."""
        last, self._last = self._last, {}
        for figure in figures:
            kept = self._made.get(figure.name)
            if kept is None:
                kept = self._made[figure.name] = self._make(figure)
            tags = {**figure.labels, "replica": self._replica}
            if isinstance(kept, Gauge):
                kept.set(figure.value, tags=tags)
                continue
            key = (figure.name, tuple(figure.labels.values()))
            before = last.get(key, 0.0)
            more = figure.value - (before if figure.value >= before else 0.0)
            if more > 0:
                kept.inc(more, tags=tags)
            self._last[key] = figure.value

    def _make(self, figure: Figure) -> Counter | Gauge:
        made = Counter if figure.is_total else Gauge
        return made(figure.name, figure.help, tag_keys=(*figure.labels, "replica"))


async def carry_often(replica: str, read: Callable[[Collection[str]], Iterable[Figure]]) -> None:
    """Until cancelled.   read: gives the figures, by the labels that it gets."""
    sums = RaySums(replica)
    while True:
        begun = perf_counter()
        sums.carry(read(LABELS))
        await asyncio.sleep(max(_EVERY_S, (perf_counter() - begun) / _SHARE))
