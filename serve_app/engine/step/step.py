"""What the parts of the packed model may know about the running step. Only values."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from representation.architecture.tracing.trace import Stream
from serve_app.engine.step.paging import Paging
from serve_app.engine.step.sequence_group import SequenceGroup
from serve_app.engine.step.spans import Segment, Spans
from serve_app.engine.step.step_inputs import StepInputs
from serve_app.engine.step.step_states import StepStates


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
    states: the states of the sequences; None where models keep none.   inputs: what encoders are
    given; None where models have none.
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
    inputs: StepInputs | None = None

    @property
    def num_tokens(self) -> int:
        """Of decoders, and of the inputs of encoders."""
        return self.tokens.count + (0 if self.inputs is None else self.inputs.tokens.count)

    def spans(self, stream: Stream) -> Spans:
        """The rows of those tokens."""
        if stream == "tokens":
            return self.tokens
        if stream == "outputs":
            return self.outputs
        assert self.inputs is not None, "a step of decoders has no inputs"
        return self.inputs.tokens


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

    def only(self, segment: Segment, stream: Stream) -> "StepView":
        """The running step as the parts inside one segment's slow form see it."""
        part = self.view.spans(stream).only(segment)
        if stream == "inputs":
            assert self.view.inputs is not None
            return replace(self.view, inputs=replace(self.view.inputs, tokens=part))
        return replace(self.view, tokens=part)
