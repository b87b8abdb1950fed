"""What the answers heard during a reload say, and what a release has of its own. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from consolidation.release import Manifest
from consolidation.release.registry import manifest_blobs
from serve_app.bench.tenants.reload_streams import Heard


@dataclass(frozen=True)
class Reload:
    """Answers before, during and after a reload. Times are of the monotonic clock, in seconds.

    heard: under load.   alone: to the same questions, by each release, while nothing else ran.
    began, moved, ended: gaps from `began` on are those before; from `moved` to `ended`, those of
    the reload.
    """

    heard: Sequence[Heard]
    alone: Sequence[Heard]
    began: float
    moved: float
    ended: float

    @property
    def num_lost(self) -> int:
        """Answers that are not whole."""
        return sum(one.error is not None for one in (*self.heard, *self.alone))

    @property
    def num_wrong(self) -> int:
        """Whole answers that are not what the release that they name answers alone."""
        right = {(one.release, one.question): one.text for one in self.alone}
        return sum(
            one.error is None and one.text != right.get((one.release, one.question))
            for one in self.heard
        )

    @cached_property
    def before(self) -> list[float]:
        """Seconds between pieces of a stream, before the channel moved."""
        return self._gaps(self.began, self.moved)

    @cached_property
    def during(self) -> list[float]:
        """The same, from then on."""
        return self._gaps(self.moved, self.ended)

    @property
    def median_gap_before(self) -> float:
        return statistics.median(self.before)

    @property
    def worst_gap(self) -> float:
        return max(self.during)

    def facts(self) -> dict[str, Any]:
        p99 = statistics.quantiles(self.during, n=100)[98]
        return {
            "answers": len(self.heard),
            "lost": self.num_lost,
            "wrong": self.num_wrong,
            "errors": sorted({one.error for one in self.heard if one.error is not None}),
            "median_gap_before_s": self.median_gap_before,
            "worst_gap_before_s": max(self.before),
            "median_gap_s": statistics.median(self.during),
            "p99_gap_s": p99,
            "worst_gap_s": self.worst_gap,
        }

    def _gaps(self, since: float, until: float) -> list[float]:
        """Of those that ended in this span."""
        return [
            after - before
            for one in self.heard
            for before, after in pairwise(one.at_s)
            if since <= after < until
        ]


def own_bytes(release: Manifest, before: Manifest) -> int:
    """Of the files that a release has and the one before has not."""
    there = {blob.digest for blob, _ in manifest_blobs(before)}
    return sum(blob.bytes for blob, _ in manifest_blobs(release) if blob.digest not in there)
