"""Which rows of state are free. Counts only: the tensors live in the engine's state store.

A row holds what the recurrent mixers of all layers keep of one sequence. It does not grow.
"""

from collections.abc import Iterable

STATE_ROWS = "state_rows"
"""The kind of need that they are."""
UNBOUNDED = 1 << 62
"""In positions; no sequence has as many."""


class StateLedger:
    """`num_rows` rows, one for each running sequence."""

    def __init__(self, num_rows: int) -> None:
        if num_rows < 0:
            raise ValueError(f"there cannot be {num_rows} rows of state")
        self.kind = STATE_ROWS
        self.noun = "rows of state"
        self.num_units = num_rows
        self._free = list(range(num_rows - 1, -1, -1))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return len(self._used)

    def units_for(self, num_positions: int) -> int:
        """One for any number of positions."""
        return 1 if num_positions else 0

    def positions_in(self, num_units: int) -> int:
        """Any number of positions fit into one."""
        return UNBOUNDED if num_units else 0

    def fits(self, count: int) -> bool:
        """Whether that many rows are free."""
        return count <= len(self._free)

    def take(self, count: int) -> list[int]:
        """Take `count` free rows. All or nothing: ValueError if fewer are free."""
        if count < 0 or not self.fits(count):
            raise ValueError(f"{count} rows of state wanted; {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(count)]
        self._used.update(taken)
        return taken

    def give_back(self, rows: Iterable[int]) -> None:
        """Give rows back. All or nothing: ValueError if one is not in use or is given twice."""
        given = list(rows)
        wrong = [row for row in given if row not in self._used]
        if wrong or len(set(given)) != len(given):
            raise ValueError(f"rows of state {given} cannot be given back: {wrong or 'repeated'}")
        self._used.difference_update(given)
        self._free.extend(given)

    def check(self, owners: Iterable[Iterable[int]]) -> None:
        """Assert that these lists own every row in use, each once."""
        owned = sorted(row for rows in owners for row in rows)
        assert owned == sorted(self._used), f"owned {owned}, used {sorted(self._used)}"
        everything = sorted([*self._free, *self._used])
        assert everything == list(range(self.num_units)), "rows of state were lost"
