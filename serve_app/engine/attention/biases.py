"""Biases of attention by relative position, for the tokens of a step. Attends to nothing.

A table belongs to a backbone, so it is a stack of which each token reads its own row.
"""

from typing import Any

import torch
from torch.nn import functional as F

from representation.encoder_decoder.position_bias import TABLE, buckets
from serve_app.engine.stacks.stacks import Stacks
from serve_app.engine.step.sequence_group import SequenceGroup
from serve_app.engine.step.spans import Spans

FIRST_REACH = 256
"""Distances that a table is looked up for from the start; it doubles where sequences are longer."""


class PositionBias:
    """One table of biases. path, module: the stock attention module that has it."""

    def __init__(self, stacks: Stacks, path: str, module: Any) -> None:
        self._stacks = stacks
        self._name = f"{path}.{TABLE}.weight"
        self._module = module
        self._reach = 0
        self._buckets = torch.empty(0)
        self._grow(FIRST_REACH)

    def of_group(self, group: SequenceGroup, spans: Spans) -> torch.Tensor:
        """For a group's queries and all keys of its tables; the same in all layers of a step.

        ->  (S, heads, n, L)
        """
        if self not in group.kept:
            num_keys = group.tables.shape[1] * group.block_size
            keys = torch.arange(num_keys, device=group.rows.device)
            distances = keys - group.positions.unsqueeze(-1)  # (S, n, L)
            rows = self._rows(spans)[group.rows[:, 0]]  # (S,)
            group.kept[self] = self._of(distances, rows[:, None, None], num_keys)
        found: torch.Tensor = group.kept[self]
        return found

    def of_input(
        self, first: int, end: int, start: int, num_keys: int, spans: Spans
    ) -> torch.Tensor:
        """For the queries [first, end) of an input that begins in row `start`, and its keys.

        ->  (1, heads, end - first, num_keys)
        """
        row = self._rows(spans)[start]
        keys = torch.arange(num_keys, device=row.device)
        distances = keys - torch.arange(first, end, device=row.device).unsqueeze(1)  # (n, L)
        return self._of(distances.unsqueeze(0), row, num_keys)

    def _rows(self, spans: Spans) -> torch.Tensor:
        """(T,), the row of the stack that each token reads"""
        return self._stacks.ready(self._name).rows.by_token(spans)

    def _of(self, distances: torch.Tensor, rows: torch.Tensor, reach: int) -> torch.Tensor:
        """distances: (S, n, L), of keys from queries   rows: of the stack  ->  (S, heads, n, L)"""
        if reach > self._reach:
            self._grow(max(reach, 2 * self._reach))
        tables = self._stacks.ready(self._name).tensor  # (R, buckets, heads)
        limit = self._reach - 1
        index = self._buckets[distances.clamp(-limit, limit) + limit]
        index = index + rows * tables.shape[1]  # (S, n, L)
        return F.embedding(index, tables.flatten(0, 1)).permute(0, 3, 1, 2)

    def _grow(self, reach: int) -> None:
        device = self._stacks[self._name].device
        self._buckets = buckets(self._module, reach).to(device)  # (2 * reach - 1,)
        self._reach = reach
