"""What is computed already of how sequences begin. Finds and shares blocks; names none of them.

It looks for blocks of keys and values alone. Where sequences need more than those to go on, as a
state that is not kept for each block, there must be none.
"""

from serve_app.scheduling.ledgers.blocks import BLOCKS, BlockLedger
from serve_app.scheduling.prefixes import Prefixes
from serve_app.scheduling.sequence import Sequence


class PrefixCache:
    """secret: at most 64 bytes; see prefixes.py."""

    def __init__(self, blocks: BlockLedger, secret: bytes) -> None:
        self._blocks = blocks
        self._prefixes = Prefixes(secret, blocks.block_size)

    def shared(self, sequence: Sequence) -> dict[str, int]:
        """By kind, how many of the units that others use a sequence that begins would use too."""
        return {BLOCKS: sum(self._blocks.is_used(block) for block in self._find(sequence) or ())}

    def begin(self, sequence: Sequence) -> None:
        """Give a sequence that begins what holds its first tokens; they count as computed."""
        found = self._find(sequence)
        if found is not None:
            self._blocks.share(found)
            sequence.held[BLOCKS] = found
            sequence.num_found = sequence.num_computed = len(found) * self._blocks.block_size

    def note_computed(self, sequence: Sequence, start: int, end: int) -> None:
        """A step that computed these positions is committed; others may share full blocks."""
        if not sequence.is_alike:
            return
        first, last = start // self._blocks.block_size, end // self._blocks.block_size
        keys = self._prefixes.keys(sequence, last) if first < last else []
        for index in range(first, last):
            self._blocks.keep(sequence.held[BLOCKS][index], keys[index])

    def forget(self, release: str) -> None:
        """Know nothing of this release any more."""
        self._blocks.forget(release)

    def _find(self, sequence: Sequence) -> list[int] | None:
        """Blocks that hold its first tokens, not the last known; None where none may be used.

        Of prompts whose logits are wanted every position is computed.
        """
        if sequence.keep_prompt_logits or not sequence.is_alike:
            return None
        num_blocks = (len(sequence.tokens) - 1) // self._blocks.block_size
        return self._blocks.find(self._prefixes.keys(sequence, num_blocks))
