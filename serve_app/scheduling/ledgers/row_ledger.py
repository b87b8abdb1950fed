"""Which rows of one shelf hold which parts, and who needs them. Counts only."""

from collections import Counter
from collections.abc import Iterable


class RowLedger:
    """Rows of a shelf by the digest of the slot or residual that they hold, with use counts.

    A row is free if no release needs its part. A release names each digest once.
    """

    def __init__(self, num_rows: int) -> None:
        if num_rows < 0:
            raise ValueError(f"a shelf cannot have {num_rows} rows")
        self._digests: list[str | None] = [None] * num_rows
        self._rows: dict[str, int] = {}
        self._owners: dict[str, int] = {}

    @property
    def num_rows(self) -> int:
        return len(self._digests)

    @property
    def num_held(self) -> int:
        return len(self._rows)

    @property
    def num_free(self) -> int:
        return self.num_rows - self.num_held

    def missing(self, digests: Iterable[str]) -> list[str]:
        """The digests that no row holds, each once, in order."""
        return [digest for digest in dict.fromkeys(digests) if digest not in self._rows]

    def row(self, digest: str) -> int:
        """The row that holds a part. Raises: KeyError."""
        return self._rows[digest]

    def fits(self, digests: Iterable[str]) -> bool:
        """Whether there are free rows for the parts that no row holds."""
        return len(self.missing(digests)) <= self.num_free

    def take(self, digests: Iterable[str]) -> list[str]:
        """Count one more user of these parts. Parts that no row holds get a free row.

        Returns the digests that got one, which the caller must write. Raises: ValueError, with
        nothing changed, if there are too few free rows.
        """
        wanted = list(dict.fromkeys(digests))
        missing = self.missing(wanted)
        if not self.fits(missing):
            raise ValueError(f"{len(missing)} parts are new and {self.num_free} rows are free")
        free = (row for row, digest in enumerate(self._digests) if digest is None)
        for digest, row in zip(missing, list(free), strict=False):
            self._digests[row] = digest
            self._rows[digest] = row
        for digest in wanted:
            self._owners[digest] = self._owners.get(digest, 0) + 1
        return missing

    def give_back(self, digests: Iterable[str]) -> None:
        """Count one user less of these parts. Rows of parts without users are free again."""
        for digest in dict.fromkeys(digests):
            self._owners[digest] -= 1
            if not self._owners[digest]:
                del self._owners[digest]
                self._digests[self._rows.pop(digest)] = None

    def check(self, owners: Iterable[Iterable[str]]) -> None:
        """Assert that these releases need exactly the parts that are held, each in its own row.

        owners: for each release, the digests that it needs.
        """
        needed = Counter(digest for digests in owners for digest in set(digests))
        assert needed == self._owners, f"needed {needed}, counted {self._owners}"
        held = {digest: row for row, digest in enumerate(self._digests) if digest is not None}
        assert held == self._rows, f"rows {held}, index {self._rows}"
        assert held.keys() == needed.keys(), f"held {held}, needed {needed}"

    def grow(self, num_rows: int) -> None:
        """Add rows; existing rows keep their parts."""
        if num_rows < self.num_rows:
            raise ValueError(f"a shelf of {self.num_rows} rows cannot shrink to {num_rows}")
        self._digests += [None] * (num_rows - self.num_rows)
