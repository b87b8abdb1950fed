"""Units of one kind, each of one sequence or of none. Knows no kind."""

from collections.abc import Iterable

UNBOUNDED = 1 << 62
"""In positions; no sequence has as many."""


class FreeUnits:
    """`num_units` units. noun: plural, for messages."""

    def __init__(self, num_units: int, noun: str) -> None:
        if num_units < 0:
            raise ValueError(f"there cannot be {num_units} {noun}")
        self.noun = noun
        self.num_units = num_units
        self._free = list(range(num_units - 1, -1, -1))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return len(self._used)

    def fits(self, count: int) -> bool:
        """Whether that many units are free."""
        return count <= len(self._free)

    def take(self, count: int) -> list[int]:
        """Take `count` free units. All or nothing: ValueError if fewer are free."""
        if count < 0 or not self.fits(count):
            raise ValueError(f"{count} {self.noun} wanted; {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(count)]
        self._used.update(taken)
        return taken

    def give_back(self, units: Iterable[int]) -> None:
        """Give units back. All or nothing: ValueError if one is not in use or is given twice."""
        given = list(units)
        wrong = [unit for unit in given if unit not in self._used]
        if wrong or len(set(given)) != len(given):
            raise ValueError(f"{self.noun} {given} cannot be given back: {wrong or 'repeated'}")
        self._used.difference_update(given)
        self._free.extend(given)

    def check(self, owners: Iterable[Iterable[int]]) -> None:
        """Assert that these lists own every unit in use, each once."""
        owned = sorted(unit for units in owners for unit in units)
        assert owned == sorted(self._used), f"owned {owned}, used {sorted(self._used)}"
        everything = sorted([*self._free, *self._used])
        assert everything == list(range(self.num_units)), f"{self.noun} were lost"
