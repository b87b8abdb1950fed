"""Which row of a stack each token of a step reads. Holds no weights, and decides nothing.

What the host knows about a step is computed from lists. What it does not know, because the same
operations serve any mix of models, is computed on the device, from a table that is rewritten
whenever a place gets another backbone.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

from serve_app.engine.device.grouped import Groups, Run
from serve_app.engine.step.spans import Spans
from serve_app.engine.step.transfer import to_device


class StackRows:
    """Which of a stack's R rows the backbone in each of S places has.

    With S rows, each place has the row with its own number; with one row, all have that. With any
    other number, several places may read one row, in any order, and `table` knows which. It is not
    needed while each place that was filled has the row of its own number all the same.
    of_place: as the host knows it.   is_own: whether each place has the row of its own number.
    """

    def __init__(self, num_rows: int, num_places: int) -> None:
        self.num_rows = num_rows
        self.of_place = list(range(num_places))
        self.is_own = True
        self._table: RowTable | None = None
        self._line = 0

    @property
    def is_shared(self) -> bool:
        """Whether only a table can tell which places read which row."""
        return not self.is_own and self.num_rows > 1

    def grow(self, num_rows: int) -> None:
        """Add rows. Places keep theirs, unless each has its own from now on."""
        self.num_rows = num_rows
        if num_rows == len(self.of_place):
            self.of_place = list(range(num_rows))
            self.is_own = True

    def point(self, place: int, row: int) -> bool:
        """Let a place read a row. -> whether this changes `is_own`"""
        self.of_place[place] = row
        was_own, self.is_own = self.is_own, self.of_place == list(range(len(self.of_place)))
        return was_own != self.is_own

    def lie(self, table: "RowTable", line: int) -> None:
        """Set its line in the table."""
        self._table, self._line = table, line

    def sole(self, spans: Spans) -> int | None:
        """The row that all tokens read; None if there may be several. Any row if no tokens."""
        if self.num_rows == 1:
            return 0
        if self.is_own:
            return spans.sole_place
        if spans.anywhere:
            return None
        found = {self.of_place[segment.place] for segment in spans.segments} or {0}
        return found.pop() if len(found) == 1 else None

    def by_token(self, spans: Spans) -> torch.Tensor:
        """-> (n,) int64, the row that each token reads"""
        if self.num_rows == 1:
            return torch.zeros_like(spans.places)
        if self.is_own:
            return spans.places
        return self._laid(spans).rows[self._line]

    def runs(self, spans: Spans) -> list[Run]:
        """Each row, with the range of neighbours that read it, as the host knows them."""
        runs: list[Run] = []
        for segment in spans.segments:
            row, start = self.of_place[segment.place], segment.start
            if runs and runs[-1][0] == row:
                start = runs.pop()[1]
            runs.append((row, start, segment.end))
        return runs

    def groups(self, spans: Spans, each: int) -> Groups:
        """The runs of `each` rows for each token. Leaves of a step with equal runs get the same."""
        key = (self if self.is_shared else self.is_own, each)
        if key not in spans.kept:
            runs = ((row, start * each, end * each) for row, start, end in self.runs(spans))
            spans.kept[key] = Groups(tuple(runs))
        found: Groups = spans.kept[key]
        return found

    def order(self, spans: Spans) -> torch.Tensor | None:
        """-> (n,) int64, the tokens sorted by row; None where they are"""
        return None if self.is_own else self._laid(spans).order[self._line]

    def ends(self, spans: Spans) -> torch.Tensor:
        """-> (R,) int32, where the tokens of each row end, in that order"""
        ends = spans.ends if self.is_own else self._laid(spans).ends[self._line]
        return ends[: self.num_rows]

    def _laid(self, spans: Spans) -> "Laid":
        assert self._table is not None, "rows that no table knows"
        return self._table.laid(spans)


class RowTable:
    """The rows that places have of those M stacks that it takes a table for: (M, S) int64."""

    def __init__(self, maps: Sequence[StackRows], device: torch.device) -> None:
        self._maps = [rows for rows in maps if rows.is_shared]
        for line, rows in enumerate(self._maps):
            rows.lie(self, line)
        self._most_rows = max((rows.num_rows for rows in self._maps), default=0)
        lines = [rows.of_place for rows in self._maps]
        self._table = torch.tensor(lines, dtype=torch.int64, device=device)  # (M, S)

    def point(self, place: int) -> None:
        """Take over what the host knows about a place. No running step may read it."""
        if self._maps:
            column = [rows.of_place[place] for rows in self._maps]
            self._table[:, place] = to_device(column, torch.int64, self._table.device)

    def laid(self, spans: Spans) -> "Laid":
        """Tokens by row, for all stacks at once, computed when the first leaf of a step asks."""
        if self not in spans.kept:
            rows = self._table.index_select(1, spans.places)  # (M, n)
            spans.kept[self] = Laid(rows, self._most_rows)
        found: Laid = spans.kept[self]
        return found


class Laid:
    """rows: (M, n) int64, for each of M stacks the row that each token reads."""

    def __init__(self, rows: torch.Tensor, most_rows: int) -> None:
        self.rows = rows
        self._most_rows = most_rows

    @cached_property
    def _sorted(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows, order = torch.sort(self.rows, dim=1, stable=True)
        return rows, order

    @property
    def order(self) -> torch.Tensor:
        """(M, n) int64, the tokens sorted by row"""
        return self._sorted[1]

    @cached_property
    def ends(self) -> torch.Tensor:
        """(M, R) int32, where the tokens of each row end, R the most rows of any stack"""
        rows = self._sorted[0]
        numbers = torch.arange(self._most_rows, device=rows.device).expand(len(rows), -1)
        return torch.searchsorted(rows, numbers.contiguous(), right=True, out_int32=True)
