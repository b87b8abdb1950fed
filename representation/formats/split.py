"""Split: packed codes in planes of at most 4 bits, so that each plane is a packed matrix by itself.

Of 8 bits there are two planes of 4. Every plane has the same scales but for a power of two, and the
planes' values add up to the code's: (code - (2^b - 1) / 2) * s is the sum over planes of
(c - (2^w - 1) / 2) * 2^k * s, where a plane's w bits lie k bits above the code's lowest.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from representation.formats.codes import Widths
from representation.formats.packing import Packed


@dataclass(frozen=True, slots=True)
class Split(Packed):
    """As `Packed`; planes are `<p>.plane4.1`, `.plane4.0`, `.plane2` and `.plane1`.

    A single plane of 4 bits is `.plane4.0`.
    """

    kind: ClassVar[str] = "split"
    spelling: ClassVar[str] = "split-<bits>-<group>"

    @property
    def widths(self) -> Widths:
        """Bits of the planes that codes are split into, the most significant first."""
        return (4, 4) if self.bits == 8 else Packed(self.bits, self.group).widths

    @property
    def shifts(self) -> tuple[int, ...]:
        """How far the bits of each plane lie above the code's lowest."""
        return tuple(sum(self.widths[place + 1 :]) for place in range(len(self.widths)))

    def plane_names(self, name: str) -> list[str]:
        """See `Packed.plane_names`."""
        fours = self.widths.count(4)
        tails = [f"4.{fours - 1 - n}" if w == 4 else str(w) for n, w in enumerate(self.widths)]
        return [f"{name}.plane{tail}" for tail in tails]

    def words(self, dtype: torch.dtype) -> str:
        """See `Format.words`."""
        return f"{Packed(self.bits, self.group).words(dtype)}, split"
