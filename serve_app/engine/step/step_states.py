"""Where a step's sequences have their state, for models that keep some. Only values."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


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
