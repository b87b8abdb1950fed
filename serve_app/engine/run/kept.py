"""The most that captured steps keep on a device. Computes; allocates nothing."""

import math
from dataclasses import dataclass

Size = tuple[int, int]
"""A size of captured steps: sequences, and blocks of the longest; both are powers of two."""

SEGMENTS_BYTES = 22 << 20
"""torch allocates 2 MiB at a time for small tensors, and 20 MiB for tensors of 1 MiB and more."""
CAPTURES_SHARE = 0.1
"""The largest share of what is left after the minimum of everything that is reserved for captures.
Sizes without room are not captured."""


@dataclass(frozen=True, slots=True)
class CaptureNeeds:
    """Bytes of captured decode steps.

    sequence: while one runs, for each of its sequences; captures share them.   logits: that each
    capture keeps for each sequence.   block: for each block of a table, where attention copies
    what it reads.   once: that attention keeps for each size.
    """

    sequence: int
    logits: int
    block: float
    once: int

    def of_one(self, size: Size, *, copies: bool) -> int:
        """The most that one more capture needs. copies: whether attention copies what it reads."""
        count, num_blocks = size
        block = self.block if copies else 0
        return SEGMENTS_BYTES + self.once + count * (self.sequence + math.ceil(num_blocks * block))

    def of_all(self, max_sequences: int, max_blocks: int) -> int:
        """What captures of all sizes need, in any order, if attention copies nothing.

        Captures made one after another, each a little larger, may together take twice what the
        largest needs while it runs. That much once more must be free to allow the next.
        """
        largest = power_of_two(max_sequences)
        counts, widths = largest.bit_length(), power_of_two(max_blocks).bit_length()
        kept = (2 * largest - 1) * self.logits + counts * self.once
        return 2 * SEGMENTS_BYTES + widths * kept + 3 * largest * self.sequence


def power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()
