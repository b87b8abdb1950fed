"""To which models the rows of a packed tensor belong. Only values."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from serve_app.engine.step.integers import Integers, Ints


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [start, end) of a packed tensor, all from the backbone in `place`.

    models: map rows of the models that the rows belong to.
    """

    place: int
    start: int
    end: int
    models: frozenset[int]

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Spans:
    """To which models the rows of a packed tensor belong. Rows are sorted by place.

    count: number of rows, n.   segments: one per place that is present, in order.
    anywhere: whether the host does not know this, because the same operations must work for
    whatever the tensors say later; then there are no segments.
    places: (n,) int64, place of each row.   rows: (n,) int64, row of each in the expert maps.
    ends: (S,) int32, where each place's rows end; S = number of places.
    kept: what was worked out of these rows, for the other leaves of the step.
    """

    count: int
    segments: tuple[Segment, ...]
    places: torch.Tensor
    rows: torch.Tensor
    ends: torch.Tensor
    anywhere: bool = False
    kept: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        places: Ints | Sequence[int],
        rows: Ints | Sequence[int],
        num_places: int,
        integers: Integers,
    ) -> "Spans":
        """Spans of rows, given the place (sorted) and the map row of each."""
        places, rows = np.asarray(places, dtype=np.int64), np.asarray(rows, dtype=np.int64)
        ends = places.searchsorted(np.arange(num_places), side="right")
        bounds = pairwise([0, *ends.tolist()])
        segments = [
            Segment(place, start, end, frozenset(rows[start:end].tolist()))
            for place, (start, end) in enumerate(bounds)
            if start < end
        ]
        return cls(
            count=len(places),
            segments=tuple(segments),
            places=integers.put(places),
            rows=integers.put(rows),
            ends=integers.put(ends, torch.int32),
        )

    @property
    def sole_place(self) -> int | None:
        """The place of all rows; None if there may be several. Any place if there are no rows."""
        if self.anywhere or len(self.segments) > 1:
            return None
        return self.segments[0].place if self.segments else 0

    @property
    def models(self) -> frozenset[int] | None:
        """Map rows of the models in the step, if the host knows them; None: any may be."""
        if self.anywhere:
            return None
        return frozenset().union(*(segment.models for segment in self.segments))

    def only(self, segment: Segment) -> "Spans":
        """The spans of one segment's rows, counted from its start."""
        part = slice(segment.start, segment.end)
        ends = torch.zeros_like(self.ends)
        ends[segment.place :] = segment.length
        return Spans(
            count=segment.length,
            segments=(replace(segment, start=0, end=segment.length),),
            places=self.places[part],
            rows=self.rows[part],
            ends=ends,
        )
