"""The state of sequences in one layer: a row for each, of a fixed size. Counts nothing.

`scheduling.ledgers.state_rows` counts which rows are free.
"""

from collections.abc import Mapping, Sequence

import torch

from representation.architecture.states import StateKey, States
from serve_app.engine.device.pages import zeros
from serve_app.engine.step.step import StepView


class StateLayer:
    """What one recurrent mixer keeps: for each tensor of its state, (R, *shape) with R rows."""

    def __init__(self, states: States, num_rows: int, device: torch.device) -> None:
        self.tensors: Mapping[StateKey, torch.Tensor] = {
            key: zeros((num_rows, *state.shape), dtype=state.dtype, device=device)
            for key, state in states.items()
        }

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def clear(self, rows: Sequence[int]) -> None:
        """Make rows those of sequences of which nothing is computed yet."""
        for tensor in self.tensors.values():
            for row in rows:
                tensor[row].zero_()

    def read(self, rows: torch.Tensor) -> dict[StateKey, torch.Tensor]:
        """Copies of these rows. rows: (S,) int64  ->  (S, *shape) of each tensor"""
        return {key: tensor.index_select(0, rows) for key, tensor in self.tensors.items()}

    def write(self, rows: torch.Tensor, states: Mapping[StateKey, torch.Tensor]) -> None:
        """rows: (S,) int64, each once   states: (S, *shape) of each tensor"""
        for key, tensor in self.tensors.items():
            tensor.index_copy_(0, rows, states[key].to(tensor.dtype))


class StateStore:
    """All layers that keep state, by the path of their mixer; none in most families."""

    def __init__(self, layers: Mapping[str, StateLayer]) -> None:
        self.layers = layers

    @property
    def num_bytes(self) -> int:
        return sum(layer.num_bytes for layer in self.layers.values())

    @torch.inference_mode()
    def begin(self, view: StepView) -> None:
        """Before a step: forget the state of those whose rows its new sequences got."""
        begins = () if view.states is None else view.states.begins
        if begins:
            for layer in self.layers.values():
                layer.clear(begins)

    def of(self, view: StepView) -> list[dict[StateKey, torch.Tensor]]:
        """Copies of the states of a step of single tokens, by layer."""
        singles = None if view.states is None else view.states.singles
        return [] if singles is None else [x.read(singles.rows) for x in self.layers.values()]

    def restore(self, view: StepView, kept: Sequence[Mapping[StateKey, torch.Tensor]]) -> None:
        """Put such copies back."""
        if view.states is not None and view.states.singles is not None:
            for layer, states in zip(self.layers.values(), kept, strict=True):
                layer.write(view.states.singles.rows, states)
