"""How a part is held: its format, and for which matrices. Costs and bytes are elsewhere."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from representation.formats import DENSE, Format, format_of


@dataclass(frozen=True, slots=True)
class PartForm:
    """A part to be made. matrices: those that it is for, in their order; none: for all."""

    format: Format
    matrices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`rank-1`, or `rank-1@down_proj`."""
        names = ",".join(self.matrices)
        return f"{self.format}@{names}" if names else str(self.format)

    @classmethod
    def of(cls, label: str) -> Self:
        """The inverse of `str`."""
        fmt, _, names = label.partition("@")
        return cls(format_of(fmt), tuple(names.split(",")) if names else ())

    def holds(self, matrix: str) -> bool:
        """Whether it is for a matrix."""
        return not self.matrices or matrix in self.matrices


PartForms = tuple[PartForm, ...]
"""Of an expert's residuals, none when the slot is all it has; or of a slot, one for each matrix."""

AS_IT_IS: PartForms = (PartForm(DENSE),)
"""Of a slot that holds an expert to the bit."""


def joined(chosen: Mapping[str, Iterable[Format]]) -> PartForms:
    """The fewest parts that give each matrix its formats, which differ within a matrix.

    chosen: formats of all matrices, in the order of the matrices, by name
    """
    names: dict[Format, list[str]] = {}
    for name, formats in chosen.items():
        for fmt in formats:
            names.setdefault(fmt, []).append(name)
    return tuple(
        PartForm(fmt, () if len(found) == len(chosen) else tuple(found))
        for fmt, found in names.items()
    )
