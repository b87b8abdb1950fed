"""Which rows of each stack the backbone in each place reads. Counts only: it holds no tensor.

A stack has rows of one backbone tensor (or of several that lie side by side), held by content:
where backbones in several places have equal tensors, they read one row. A stack with as many rows
as there are places shares none: each place reads the row of its own number.
"""

from collections.abc import Iterable, Mapping

from serve_app.scheduling.ledgers.row_ledger import RowLedger

Contents = Mapping[str, str]
"""Of a backbone: for each stack, by its name, a digest of what its row is to hold."""


def distinct_contents(backbones: Iterable[Contents]) -> dict[str, int]:
    """How many rows each stack would need to hold all of these backbones at once."""
    found: dict[str, set[str]] = {}
    for contents in backbones:
        for stack, content in contents.items():
            found.setdefault(stack, set()).add(content)
    return {stack: len(known) for stack, known in found.items()}


def rows_for(distinct: Mapping[str, int], num_places: int) -> dict[str, int]:
    """Rows of each stack, so that any of these backbones can be in any place.

    distinct: different contents that the backbones have for each stack.
    """
    return {stack: min(num_places, count) for stack, count in distinct.items()}


class BackboneRows:
    """Rows of all stacks, and the contents of the backbone in each place.

    What is held never needs more rows than `wanted` returned before the latest `grow`, as long as
    only backbones that were passed to it are put: there are fewer other contents than places, and
    fewer than distinct ones.
    """

    def __init__(self, num_places: int, num_rows: Mapping[str, int]) -> None:
        """num_rows: of each stack, from 1 to `num_places`."""
        for stack, count in num_rows.items():
            if not 1 <= count <= num_places:
                raise ValueError(f"stack {stack!r}: {count} rows for {num_places} places")
        self._num_rows = dict(num_rows)
        self._contents: list[Contents | None] = [None] * num_places
        self._ledgers = {
            stack: RowLedger(count) for stack, count in num_rows.items() if count < num_places
        }

    @property
    def num_rows(self) -> Mapping[str, int]:
        """Of each stack."""
        return self._num_rows

    def put(self, place: int, contents: Contents) -> dict[str, int]:
        """Give a place to a backbone, which replaces what it held. -> its row of each stack

        Raises: ValueError, with nothing changed, where a stack has too few rows.
        """
        for stack, ledger in self._ledgers.items():
            others = self._held(stack, besides=place)
            if contents[stack] not in others and len(others) == ledger.num_rows:
                raise ValueError(f"stack {stack!r}: each of {ledger.num_rows} rows is in use")
        self.clear(place)
        for stack, ledger in self._ledgers.items():
            ledger.take([contents[stack]])
        self._contents[place] = dict(contents)
        return {stack: self._row(stack, place) for stack in self._num_rows}

    def clear(self, place: int) -> None:
        """The place holds nothing any more, if it held anything."""
        held = self._contents[place]
        if held is None:
            return
        for stack, ledger in self._ledgers.items():
            ledger.give_back([held[stack]])
        self._contents[place] = None

    def wanted(self, backbones: Iterable[Contents], *, alone: bool = False) -> dict[str, int]:
        """Rows that each stack must have for places to hold any of these backbones, or what they
        hold now, in any mix. Never fewer than there are. alone: not what they hold now."""
        held = [contents for contents in self._contents if contents is not None and not alone]
        needed = rows_for(distinct_contents([*held, *backbones]), len(self._contents))
        return {stack: max(count, needed.get(stack, 0)) for stack, count in self._num_rows.items()}

    def grow(self, num_rows: Mapping[str, int]) -> dict[str, list[int | None]]:
        """Have more rows. -> for each stack that grows, which row each new one is a copy of

        A stack that comes to have a row for each place copies what places shared.
        """
        sources: dict[str, list[int | None]] = {}
        for stack, count in num_rows.items():
            before = self._num_rows[stack]
            if count < before:
                raise ValueError(f"stack {stack!r} of {before} rows cannot shrink to {count}")
            if count == before:
                continue
            if count == len(self._contents):
                sources[stack] = [
                    None if held is None else self._row(stack, place)
                    for place, held in enumerate(self._contents)
                ]
                del self._ledgers[stack]
            else:
                sources[stack] = [*range(before), *[None] * (count - before)]
                self._ledgers[stack].grow(count)
            self._num_rows[stack] = count
        return sources

    def rows(self, place: int) -> dict[str, int] | None:
        """The rows that a place reads; None where it holds nothing."""
        if self._contents[place] is None:
            return None
        return {stack: self._row(stack, place) for stack in self._num_rows}

    def check(self) -> None:
        """Assert that rows in use are those of what places hold, each once."""
        for stack, ledger in self._ledgers.items():
            held = self._held(stack)
            assert ledger.num_held == len(held), f"stack {stack!r}: {ledger.num_held} rows in use"
            assert not ledger.missing(sorted(held)), f"stack {stack!r}: a place has no row"

    def _row(self, stack: str, place: int) -> int:
        if stack not in self._ledgers:
            return place
        contents = self._contents[place]
        assert contents is not None
        return self._ledgers[stack].row(contents[stack])

    def _held(self, stack: str, besides: int | None = None) -> set[str]:
        return {
            contents[stack]
            for place, contents in enumerate(self._contents)
            if contents is not None and place != besides
        }
