"""What sequences need to run, by kind, and who holds it. Counts only; knows no kind by name.

One kind is blocks of keys and values; another may be one row of state. The ledger of a kind counts
its *units*. How many units a sequence needs depends on how many positions it has computed. A
sequence gets the units of all kinds or of none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from serve_app.scheduling.errors import NeverFits
from serve_app.scheduling.sequence import Held, Sequence


class Ledger(Protocol):
    """Which units of one kind are free. A unit is a number; the engine knows what it stands for.

    kind: the name under which sequences and chunks list its units.   noun: plural, for messages.
    """

    @property
    def kind(self) -> str: ...

    @property
    def noun(self) -> str: ...

    @property
    def num_units(self) -> int: ...

    @property
    def num_free(self) -> int: ...

    def units_for(self, num_positions: int, num_inputs: int = 0) -> int:
        """How many units a sequence needs for that many computed positions.

        num_inputs: how many of them, the first, are the input of an encoder.
        """
        ...

    def positions_in(self, num_units: int, num_inputs: int = 0) -> int:
        """For how many positions of one sequence that many units are enough."""
        ...

    def fits(self, count: int) -> bool:
        """Whether that many units are free."""
        ...

    def take(self, count: int) -> list[int]:
        """Take free units. All or nothing: ValueError if there are too few."""
        ...

    def give_back(self, units: Iterable[int]) -> None:
        """Give units back. All or nothing: ValueError for units that are not in use."""
        ...

    def check(self, owners: Iterable[Iterable[int]]) -> None:
        """Assert that these lists own every unit in use."""
        ...


class Needs:
    """All kinds of need together."""

    def __init__(self, ledgers: Iterable[Ledger]) -> None:
        self._ledgers = tuple(ledgers)

    def require(self, sequence: Sequence) -> None:
        """Raises NeverFits if prompt and answer need more of a kind than exists."""
        for ledger in self._ledgers:
            needed = ledger.units_for(sequence.num_positions, sequence.num_inputs)
            if needed > ledger.num_units:
                raise NeverFits(
                    sequence.id, needed=needed, available=ledger.num_units, noun=ledger.noun
                )

    def fits(
        self, sequence: Sequence, shared: Mapping[str, int], without: Iterable[Sequence] = ()
    ) -> bool:
        """Whether a sequence that holds nothing can get what all its known tokens need.

        shared: by kind, how many units in use it would share.   without: running sequences that
        would give back what they hold; units that they share with others are counted as free too.
        """
        freed: Counter[str] = Counter()
        for other in without:
            freed.update({kind: len(units) for kind, units in other.held.items()})
        return all(
            ledger.fits(
                ledger.units_for(len(sequence.tokens), sequence.num_inputs)
                - shared.get(ledger.kind, 0)
                - freed[ledger.kind]
            )
            for ledger in self._ledgers
        )

    def fit(self, lengths: Iterable[tuple[Sequence, int]]) -> bool:
        """Whether these running sequences can all get what that many more positions need."""
        lacking: Counter[str] = Counter()
        for sequence, length in lengths:
            for ledger in self._ledgers:
                lacking[ledger.kind] += _lacking(ledger, sequence, length)
        return all(ledger.fits(lacking[ledger.kind]) for ledger in self._ledgers)

    def room(self, sequence: Sequence) -> int:
        """For how many more positions its own units and the free ones are enough."""
        rooms = [
            ledger.positions_in(
                len(sequence.held.get(ledger.kind, ())) + ledger.num_free, sequence.num_inputs
            )
            for ledger in self._ledgers
        ]
        return min(rooms) - sequence.num_computed

    def has(self, sequence: Sequence, length: int) -> Held | None:
        """By kind, its own units for that many more positions; None if it lacks some."""
        held, end = sequence.held, sequence.num_computed + length
        inputs, has_more = sequence.num_inputs, False
        for ledger in self._ledgers:
            lacking = ledger.units_for(end, inputs) - len(held.get(ledger.kind, ()))
            if lacking > 0:
                return None
            has_more = has_more or lacking < 0
        if not has_more:
            return held
        return {each.kind: held[each.kind][: each.units_for(end, inputs)] for each in self._ledgers}

    def take(self, sequence: Sequence, length: int) -> Held:
        """Give a sequence what it lacks for that many more positions.

        -> by kind, its units for all positions up to there. All or nothing: ValueError if there
        is too little of a kind.
        """
        self._take(sequence, [_lacking(ledger, sequence, length) for ledger in self._ledgers])
        held = self.has(sequence, length)
        assert held is not None, f"{sequence.id} still lacks what it took"
        return held

    def _take(self, sequence: Sequence, counts: Iterable[int]) -> None:
        """Give a sequence these numbers of units of each kind, or raise ValueError."""
        wanted = list(zip(self._ledgers, counts, strict=True))
        for ledger, count in wanted:
            if not ledger.fits(count):
                raise ValueError(
                    f"sequence {sequence.id!r} lacks {count} {ledger.noun}; "
                    f"{ledger.num_free} are free"
                )
        held = sequence.held
        sequence.held = {
            ledger.kind: (*held.get(ledger.kind, ()), *ledger.take(count))
            for ledger, count in wanted
        }

    def give_back(self, sequence: Sequence) -> None:
        """Take everything that a sequence holds."""
        for ledger in self._ledgers:
            ledger.give_back(sequence.held.get(ledger.kind, ()))
        sequence.held = {}

    def check(self, running: Iterable[Sequence]) -> None:
        """Assert that these sequences hold everything in use, and enough for what they computed."""
        sequences = list(running)
        for ledger in self._ledgers:
            ledger.check(s.held.get(ledger.kind, ()) for s in sequences)
            for s in sequences:
                covered = ledger.positions_in(len(s.held.get(ledger.kind, ())), s.num_inputs)
                assert s.num_computed <= covered, f"{s.id} computed what it cannot hold"


def _lacking(ledger: Ledger, sequence: Sequence, length: int) -> int:
    held = len(sequence.held.get(ledger.kind, ()))
    end = sequence.num_computed + length
    return max(ledger.units_for(end, sequence.num_inputs) - held, 0)
