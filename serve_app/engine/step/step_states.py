"""Where a step's sequences have their state, for models that keep some. Only values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.engine.step.integers import Integers


class StatePiece(NamedTuple):
    """Tokens [start, end) of a step, all of one sequence, whose state is in `row`."""

    row: int
    place: int
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Singles:
    """The S sequences with a single token in a step.

    rows: (S,) int64, of their states.   tokens: (S,) int64, among the step's tokens.
    is_all: whether they are all of the step's tokens, in order.
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    is_all: bool


@dataclass(frozen=True, slots=True)
class StepStates:
    """The states of a step's sequences.

    singles: None if no sequence has a single token.   longer: the pieces of the others.
    pieces: of all, as far as the host knows them.   begins: rows of sequences of which nothing is
    computed yet.   prompts: (T,) bool, whether a token is of a prompt.
    """

    singles: Singles | None
    longer: tuple[StatePiece, ...]
    pieces: tuple[StatePiece, ...]
    begins: tuple[int, ...]
    prompts: torch.Tensor

    @classmethod
    def of(
        cls,
        pieces: Sequence[StatePiece],
        begins: Sequence[int],
        prompts: NDArray[np.bool_],
        integers: Integers,
    ) -> "StepStates":
        """States of sequences whose pieces the host knows. prompts: (T,) bool"""
        singles = [piece for piece in pieces if piece.length == 1]
        found = Singles(
            integers.put([piece.row for piece in singles]),
            integers.put([piece.start for piece in singles]),
            is_all=len(singles) == len(pieces),
        )
        return cls(
            singles=found if singles else None,
            longer=tuple(piece for piece in pieces if piece.length > 1),
            pieces=tuple(pieces),
            begins=tuple(begins),
            prompts=integers.put(prompts, torch.bool),
        )
