"""What attention and captured steps keep on a device, at most. Reckons only: allocates nothing."""

import math
from dataclasses import dataclass

Size = tuple[int, int]
"""Of captured steps: sequences, and blocks of the longest of them; each a power of two."""

SEGMENTS_BYTES = 22 << 20
"""torch takes memory for small tensors by 2 MiB, and for those of 1 MiB on by 20."""
CAPTURES_SHARE = 0.1
"""Of what is left after the least of everything, the most that is reserved for captures; sizes that
find no room are not captured."""


@dataclass(frozen=True, slots=True)
class AttentionNeeds:
    """Bytes that forms of attention keep: at all, for each kind of layer, and for each kind and
    size that is captured.
    """

    once: int = 0
    kind: int = 0
    captured: int = 0


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
        """The most that one more capture takes. copies: whether attention copies what it reads."""
        count, num_blocks = size
        block = self.block if copies else 0
        return SEGMENTS_BYTES + self.once + count * (self.sequence + math.ceil(num_blocks * block))

    def of_all(self, max_sequences: int, max_blocks: int) -> int:
        """What there must be for captures of all sizes, in any order, attention copying nothing.

        Of what they need while they run, twice the largest's may have been taken by one after
        another, each a little larger; and once more must be there for the next to be allowed.
        """
        largest = power_of_two(max_sequences)
        counts, widths = largest.bit_length(), power_of_two(max_blocks).bit_length()
        kept = (2 * largest - 1) * self.logits + counts * self.once
        return 2 * SEGMENTS_BYTES + widths * kept + 3 * largest * self.sequence


def power_of_two(number: int) -> int:
    """The least one that is no smaller."""
    return 1 << (number - 1).bit_length()
