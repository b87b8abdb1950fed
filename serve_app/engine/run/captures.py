"""Decode steps that are recorded once and replayed for any mix of models. Samples nothing.

A step of single tokens launches about a thousand kernels, and launching can take most of its time.
A captured step is launched as one. It reads everything that differs between steps (tokens, places,
map rows, tables, lengths) from tensors that are rewritten before each run, so it is valid for every
mix of models. It is captured for a few sizes, and smaller steps are padded.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import torch

from serve_app.engine.device.trial import logits_difference
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.run.kept import CaptureNeeds, Size, power_of_two
from serve_app.engine.step.paging import PagedOnHost, Paging
from serve_app.engine.step.sequence_group import SequenceGroup
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.step import StepView
from serve_app.engine.step.step_states import Singles, StepStates

logger = logging.getLogger(__name__)


class Capture(Protocol):
    """Recorded operations. logits: where they write their result."""

    logits: torch.Tensor

    def replay(self) -> None:
        """Run them again on the current contents of the tensors that they read."""


class GraphBackend(Protocol):
    """Records operations."""

    @property
    def num_bytes(self) -> int:
        """Bytes that everything recorded so far keeps."""

    def capture(self, run: Callable[[], torch.Tensor]) -> Capture:
        """Run `run` once, and record what it does.

        Raises: RuntimeError if it does something that cannot be recorded.
        """

    def drop(self) -> None:
        """Forget everything recorded, as soon as none of it is running."""


class DecodeGraphs:
    """Runs steps of a packed model; steps of single tokens run from captures."""

    def __init__(
        self,
        packed: PackedModel,
        backend: GraphBackend,
        max_sequences: int,
        needs: CaptureNeeds,
        max_bytes: int | None,
    ) -> None:
        """max_bytes: the most that attention and captures may keep; None: no limit."""
        self._packed = packed
        self._backend = backend
        self._needs = needs
        self._max_bytes = max_bytes
        self._largest = power_of_two(max_sequences)
        self._revision = packed.step.revision
        self._steps: dict[Size, _CapturedStep | None] = {}
        self._reason: str | None = None
        self._look()

    @property
    def num_bytes(self) -> int:
        """Bytes that captures keep, without what attention keeps for them."""
        return self._backend.num_bytes

    def forward(self, view: StepView) -> torch.Tensor:
        """Like `PackedModel.forward`. The next step of the same size overwrites the result."""
        if self._packed.step.revision != self._revision:
            self._look()
        size = self._size(view)
        if size is None or self._reason is not None or self._packed.is_watched:
            return self._packed.forward(view)
        if size not in self._steps:
            return self._capture(size, view)
        step = self._steps[size]
        if step is None:
            return self._packed.forward(view)
        step.fill(view)
        return step.replay()[: view.tokens.count]

    def _look(self) -> None:
        """Start over with what is loaded now."""
        if self._steps:
            self._backend.drop()
        self._steps = {}
        self._revision = self._packed.step.revision
        self._reason = self._packed.bound_to_host
        if self._reason is not None:
            logger.info("decode steps are not captured: %s", self._reason)

    def _size(self, view: StepView) -> Size | None:
        """The size of capture that can serve a step; None if none can."""
        paging, count = view.paging, view.tokens.count
        if paging is None or paging.most_tokens > 1 or view.outputs.count != count:
            return None
        if count > self._largest:
            return None
        if self._packed.arrivals.pending(segment.place for segment in view.tokens.segments):
            return None  # it must wait for one tensor after another
        return power_of_two(count), power_of_two(paging.tables.shape[1])

    def _capture(self, size: Size, view: StepView) -> torch.Tensor:
        """Run a step as it is, and record it for later steps of its size.

        The recording is used if it gives the same result as the step. Where models keep states, it
        is made and compared on the row that no sequence has, so that theirs stay as they are; then
        the step runs, and replaces the keys and values that this wrote.
        """
        self._steps[size] = None
        if not self._has_room(size):
            return self._packed.forward(view)
        states = self._packed.states
        tried = states.on_spare_row(view)
        states.begin(tried)
        expected = self._packed.forward(tried)
        step = _CapturedStep(self._packed, size)
        step.fill(tried)
        try:
            step.record(self._backend)
            states.begin(tried)
            found = step.replay()[: view.tokens.count]
        except RuntimeError as error:
            self._warn(size, error)
        else:
            differs = logits_difference(found, expected)
            if differs is None:
                self._steps[size] = step
            else:
                logger.warning(
                    "decode steps of %d sequences are not captured: %s from the same step's not "
                    "captured",
                    size[0],
                    differs,
                )
        return expected if tried is view else self._packed.forward(view)

    def _warn(self, size: Size, error: RuntimeError) -> None:
        logger.warning("decode steps of %d sequences cannot be captured: %s", size[0], error)

    def _has_room(self, size: Size) -> bool:
        """Whether one more capture fits into what was planned for all."""
        if self._max_bytes is None:
            return True
        kept = self.num_bytes + self._packed.attention_bytes
        copies = any(form.takes_groups for form in self._packed.attention_forms)
        most = self._needs.of_one(size, copies=copies)
        if kept + most <= self._max_bytes:
            return True
        logger.info(
            "decode steps of %d sequences and %d blocks are not captured: that may take %d bytes, "
            "and attention and captures keep %d of the %d planned for them",
            *size,
            most,
            kept,
            self._max_bytes,
        )
        return False


class _CapturedStep:
    """The tensors that a captured step reads. Fills them.

    integers: (6, n) int64, for each token its id, position, index in the KV store, row of state,
    place, map row.
    """

    def __init__(self, packed: PackedModel, size: Size) -> None:
        count, num_blocks = self.size = size
        self._packed = packed
        self._spare_block = packed.sizes.num_blocks
        self._block_size = packed.sizes.block_size
        device = packed.device
        self._integers = torch.zeros((6, count), dtype=torch.int64, device=device)
        self._prompts = torch.zeros(count, dtype=torch.bool, device=device)
        pads = [0, 0, self._spare_block * self._block_size, packed.sizes.state_rows]
        self._pads = torch.tensor([pads], dtype=torch.int64, device=device).view(-1, 1)
        self._numbers = torch.arange(count, device=device)
        self._ends = torch.zeros(packed.sizes.num_places, dtype=torch.int32, device=device)
        self._starts = torch.arange(count + 1, dtype=torch.int32, device=device)
        self._lengths = torch.ones(count, dtype=torch.int32, device=device)
        self._tables = torch.full(
            (count, num_blocks), self._spare_block, dtype=torch.int32, device=device
        )
        self._paging: Paging | None = None
        self._capture: Capture | None = None

    def fill(self, view: StepView) -> None:
        """Fill in this step for the next run.

        The padding rows have the place and model of the last row, at the first position of a
        sequence in a block that no sequence has.
        """
        paging, count, room = view.paging, view.tokens.count, self.size[0]
        assert paging is not None
        tokens = view.tokens
        singles = None if view.states is None else view.states.singles
        states = torch.zeros_like(view.ids) if singles is None else singles.rows
        found = torch.stack(
            (view.ids, view.positions, view.kv_index, states, tokens.places, tokens.rows)
        )
        self._integers[:, :count] = found
        if view.states is not None:
            self._prompts[:count] = view.states.prompts
        self._ends.copy_(torch.where(tokens.ends == count, room, tokens.ends))
        self._lengths[:count] = paging.lengths
        self._tables[:count, : paging.tables.shape[1]] = paging.tables
        more = room - count
        if more:
            self._integers[:4, count:] = self._pads
            self._integers[4:, count:] = found[4:, -1:]
            self._lengths[count:] = 1
            self._tables[count:] = self._spare_block
        self._paging = self._of_all(paging.host, more)

    def _of_all(self, host: PagedOnHost, more: int) -> Paging:
        count, num_blocks = self.size
        return Paging(
            starts=self._starts,
            lengths=self._lengths,
            tables=self._tables,
            block_size=self._block_size,
            most_tokens=1,
            most_positions=num_blocks * self._block_size,
            host=PagedOnHost(
                starts=tuple(range(count + 1)),
                lengths=host.lengths + (1,) * more,
                tables=host.tables + ((self._spare_block,),) * more,
            ),
            captured=self.size,
        )

    def record(self, backend: GraphBackend) -> None:
        """Raises: RuntimeError if the step does something that cannot be recorded."""
        self._capture = backend.capture(lambda: self._packed.forward(self._view()))

    def replay(self) -> torch.Tensor:
        """Run the step that was filled in. ->  (n, V) logits"""
        assert self._capture is not None
        assert self._paging is not None
        for form in self._packed.attention_forms:
            form.prepare(self._paging)
        self._capture.replay()
        return self._capture.logits

    def _view(self) -> StepView:
        """The step as the packed model sees it. Made for one run, because groups cache results."""
        ids, positions, kv_index, states, places, rows = self._integers
        spans = Spans(self.size[0], (), places, rows, self._ends, anywhere=True)
        group = SequenceGroup(
            rows=self._numbers.unsqueeze(1),
            tables=self._tables,
            positions=positions.unsqueeze(1),
            block_size=self._block_size,
        )
        return StepView(
            tokens=spans,
            outputs=spans,
            output_index=self._numbers,
            ids=ids,
            positions=positions,
            kv_index=kv_index,
            groups=(group,),
            paging=self._paging,
            states=self._states(states) if self._packed.states.layers else None,
        )

    def _states(self, rows: torch.Tensor) -> StepStates:
        """rows: (n,) int64, of the states"""
        singles = Singles(rows, self._numbers, is_all=True)
        return StepStates(singles, longer=(), pieces=(), begins=(), prompts=self._prompts)
