"""Pieces of sequences that attend together, and what they see. Only values."""

from dataclasses import dataclass, field
from typing import Any

import torch


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
    kept: what was worked out of these, for the other layers of the step.
    """

    rows: torch.Tensor
    tables: torch.Tensor
    positions: torch.Tensor
    block_size: int
    _reaches: dict[tuple[int | None, torch.dtype], Reach] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    kept: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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
