"""The state of sequences in one layer: a row for each, of a fixed size. Counts nothing.

`scheduling.ledgers.state_rows` counts which rows are free.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from representation.architecture.states import StateKey, States
from serve_app.engine.device.pages import zeros
from serve_app.engine.step.step import StepView
from serve_app.engine.step.transfer import to_device


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

    def clear(self, rows: torch.Tensor) -> None:
        """Make rows those of sequences of which nothing is computed yet. rows: (n,) int64"""
        for tensor in self.tensors.values():
            tensor.index_fill_(0, rows, 0)

    def read(self, rows: torch.Tensor) -> dict[StateKey, torch.Tensor]:
        """Copies of these rows. rows: (S,) int64  ->  (S, *shape) of each tensor"""
        return {key: tensor.index_select(0, rows) for key, tensor in self.tensors.items()}

    def write(self, rows: torch.Tensor, states: Mapping[StateKey, torch.Tensor]) -> None:
        """rows: (S,) int64, each once   states: (S, *shape) of each tensor"""
        for key, tensor in self.tensors.items():
            tensor.index_copy_(0, rows, states[key].to(tensor.dtype))


class StateStore:
    """All layers that keep state, by the path of their mixer; none in most families."""

    def __init__(
        self, layers: Mapping[str, StateLayer], num_rows: int, device: torch.device
    ) -> None:
        """num_rows: of each layer, with the one that no sequence has."""
        self.layers = layers
        self._num_rows = num_rows
        self._device = device

    @property
    def num_bytes(self) -> int:
        return sum(layer.num_bytes for layer in self.layers.values())

    @torch.inference_mode()
    def begin(self, view: StepView) -> None:
        """Before a step: forget the state of those whose rows its new sequences got."""
        begins = () if view.states is None else view.states.begins
        if begins:
            rows = to_device(begins, torch.int64, self._device)
            for layer in self.layers.values():
                layer.clear(rows)

    def on_spare_row(self, view: StepView) -> StepView:
        """The same step of single tokens, all on the last row, which no sequence has.

        All of them read it before one of them writes it, so what they give is defined; what is left
        in it is not.
        """
        if view.states is None or view.states.singles is None:
            return view
        spare = self._num_rows - 1
        rows = torch.full_like(view.states.singles.rows, spare)
        singles = replace(view.states.singles, rows=rows)
        return replace(view, states=replace(view.states, singles=singles, begins=(spare,)))
