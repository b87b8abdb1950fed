"""What the parts of the packed model may know about the running step. Only values."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from serve_app.engine.step.integers import Integers, Ints
from serve_app.engine.step.step_states import StepStates


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


@dataclass(frozen=True, slots=True)
class Reach:
    """What the tokens of a group may see of their sequences.

    tables: (S, b) int64, the blocks that hold it.
    mask: (S, 1, n, b * N), added to scores: 0 where a token sees, else -inf.
    """

    tables: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class SequenceGroup:
    """Pieces of a step's sequences that attend together: S pieces with n tokens each.

    rows: (S, n) int64, their rows among the step's tokens.
    tables: (S, b) int64, blocks of N tokens up to each piece's end, padded with block 0.
    positions: (S, n) int64, positions of the tokens in their sequences.
    """

    rows: torch.Tensor
    tables: torch.Tensor
    positions: torch.Tensor
    block_size: int
    _reaches: dict[tuple[int | None, torch.dtype], Reach] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def reach(self, window: int | None, dtype: torch.dtype) -> Reach:
        """A token sees itself and all before it; with a window, only the last `window` tokens.

        Every layer of the step asks, so answers are cached.
        """
        key = (window, dtype)
        if key not in self._reaches:
            self._reaches[key] = self._reach(window, dtype)
        return self._reaches[key]

    def _reach(self, window: int | None, dtype: torch.dtype) -> Reach:
        size, device = self.block_size, self.rows.device
        num_blocks, num_tokens = self.tables.shape[1], self.rows.shape[1]
        tables, first = self.tables, self.positions.new_zeros((1, 1))
        if window is not None and num_blocks > (needed := (window + num_tokens - 2) // size + 2):
            first = (self.positions[:, :1] - (window - 1)).clamp(min=0) // size  # (S, 1)
            index = first + torch.arange(needed, device=device)
            tables = tables.gather(1, index.clamp(max=num_blocks - 1))
        stored = first * size + torch.arange(tables.shape[1] * size, device=device)  # (S or 1, L)
        behind = self.positions[:, :, None] - stored[:, None, :]  # (S, n, L)
        unseen = behind < 0 if window is None else (behind < 0) | (behind >= window)
        mask = torch.zeros(unseen.shape, dtype=dtype, device=device)
        return Reach(tables, mask.masked_fill_(unseen, float("-inf")).unsqueeze(1))


@dataclass(frozen=True, slots=True)
class PagedOnHost:
    """The numbers of `Paging` on the host, for kernels that are planned there."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    tables: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Paging:
    """A step's sequences in the form for paged kernels: S sequences, in the order of their tokens.

    starts: (S + 1,) int32, where the tokens of each begin in the step, and where the last ones end.
    lengths: (S,) int32, positions of each once the step's keys and values are written.
    tables: (S, b) int32, blocks of `block_size` tokens, padded with block 0.
    most_tokens, most_positions: no sequence has more in this step, or in all.
    captured: the captured step whose inputs these tensors are, rewritten in place; None if there
    is none.
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor
    block_size: int
    most_tokens: int
    most_positions: int
    host: PagedOnHost
    captured: tuple[int, int] | None = None


class RopeSpan(NamedTuple):
    """Tokens [start, end) whose angles are computed together.

    row: map row of their model, or of one of them.   length: of the sequence in the forward pass in
    which `generate()` would compute them, for rope variants that look at it.
    """

    start: int
    end: int
    row: int
    length: int


@dataclass(frozen=True, slots=True)
class StepView:
    """One step: T tokens of all sequences, of which n need logits.

    ids, positions, kv_index: (T,) int64; kv_index is where in the KV store a token is written.
    output_index: (n,) int64, which tokens need logits; ascending, so outputs are sorted too.
    groups, paging: the sequences, in the shapes that the forms of attention need.
    states: the states of the sequences; None where models keep none.
    """

    tokens: Spans
    outputs: Spans
    output_index: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    kv_index: torch.Tensor
    groups: tuple[SequenceGroup, ...] = ()
    paging: Paging | None = None
    ropes: tuple[RopeSpan, ...] = ()
    states: StepStates | None = None


class CurrentStep:
    """Holds the running step, for the leaves that were put into a stock model.

    The stock model's own code calls the leaves and passes them only activations, so each leaf gets
    this holder when it is built. There is one per packed model, never shared.
    """

    def __init__(self) -> None:
        self._view: StepView | None = None
        self.revision = 0
        """Changes with all that captured steps rely on: which tensors there are, and which of
        them are needed."""

    def revise(self) -> None:
        """Say that something changed on which captured steps rely."""
        self.revision += 1

    @property
    def is_running(self) -> bool:
        """Whether a forward pass is running. Any thread may ask."""
        return self._view is not None

    @property
    def view(self) -> StepView:
        assert self._view is not None, "a leaf was called outside a step"
        return self._view

    @contextmanager
    def running(self, view: StepView) -> Iterator[None]:
        """Make `view` the running step."""
        before, self._view = self._view, view
        try:
            yield
        finally:
            self._view = before

    def only(self, segment: Segment) -> "StepView":
        """The running step as the parts inside one segment's slow form see it."""
        return replace(self.view, tokens=self.view.tokens.only(segment))
