"""A recurrent mixer's own code, run for each sequence: right for every mixer that passes its trial.

Sequences of one model that have a single token in the step run together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from representation.architecture.states import SequenceStates
from representation.architecture.tracing.trace import Axes
from serve_app.engine.leaves.leaves import Leaf, Names
from serve_app.engine.leaves.originals import Original
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.states.state_store import StateLayer
from serve_app.engine.step.step import CurrentStep
from serve_app.engine.step.step_states import StatePiece


class BySequence(Leaf):
    """A mixer's original code, for one sequence after another."""

    def __init__(
        self,
        step: CurrentStep,
        stacks: Stacks,
        names: Names,
        axes: Axes,
        *,
        original: nn.Module,
        argument: str,
        store: StateLayer,
    ) -> None:
        """argument: the name under which the mixer takes a cache."""
        super().__init__(step, stacks, names, axes)
        self._original = Original(original, names)
        self._argument = argument
        self._store = store

    def forward(self, hidden_states: torch.Tensor, **others: Any) -> torch.Tensor:
        """hidden_states: (1, T, H)  ->  (1, T, H)

        Keywords that hold for one sequence at a time, such as masks, are None in packed steps.
        """
        states = self.step.view.states
        assert states is not None, "the step has no states"
        out = torch.empty_like(hidden_states)
        for pieces in _together(states.pieces):
            rows = torch.tensor([piece.row for piece in pieces], device=out.device)
            weights = self._weights(pieces[0].place)
            if len(pieces) == 1:
                where: Any = slice(pieces[0].start, pieces[0].end)
                given = hidden_states[:, where]  # (1, n, H)
            else:
                where = torch.tensor([piece.start for piece in pieces], device=out.device)
                given = hidden_states[0, where].unsqueeze(1)  # (S, 1, H)
            handed = SequenceStates(self._store.read(rows))
            found = self._original(weights, given, **others | {self._argument: handed})
            self._store.write(rows, handed.tensors)
            out[0, where] = found.flatten(0, 1)
        return out

    def _weights(self, place: int) -> dict[str, torch.Tensor]:
        stacks = {name: self.stack(name) for name in self.names}
        return {name: s.tensor[s.rows.of_place[place]] for name, s in stacks.items()}


def _together(pieces: Sequence[StatePiece]) -> list[list[StatePiece]]:
    """Single tokens of one place together, everything else by itself."""
    singles: dict[int, list[StatePiece]] = {}
    for piece in pieces:
        if piece.length == 1:
            singles.setdefault(piece.place, []).append(piece)
    return [*singles.values(), *([piece] for piece in pieces if piece.length > 1)]
