"""Finds blocks that hold the beginning of a sequence, and shares them. `prefixes.py` names them.

It only looks for blocks of keys and values. If sequences need more than those to continue, such as
a state that is not kept for each block, there must be no cache.
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
        """By kind, how many units of others a new sequence would share."""
        return {BLOCKS: sum(self._blocks.is_used(block) for block in self._find(sequence) or ())}

    def begin(self, sequence: Sequence) -> None:
        """Give a new sequence the blocks of its first tokens, which count as computed."""
        found = self._find(sequence)
        if found is not None:
            self._blocks.share(found)
            sequence.held = {**sequence.held, BLOCKS: tuple(found)}
            sequence.num_found = sequence.num_computed = len(found) * self._blocks.block_size

    def note_computed(self, sequence: Sequence, start: int, end: int) -> None:
        """A step that computed these positions is committed; others may share full blocks."""
        first, last = start // self._blocks.block_size, end // self._blocks.block_size
        if first == last or not sequence.is_alike:
            return
        keys = self._prefixes.keys(sequence, last)
        for index in range(first, last):
            self._blocks.keep(sequence.held[BLOCKS][index], keys[index])

    def forget(self, release: str) -> None:
        """Forget everything of this release."""
        self._blocks.forget(release)

    def _find(self, sequence: Sequence) -> list[int] | None:
        """Blocks that hold its first tokens, without the last known one; None if none may be used.

        If the logits of a prompt are requested, every position is computed.
        """
        if sequence.keep_prompt_logits or not sequence.is_alike:
            return None
        num_blocks = (len(sequence.tokens) - 1) // self._blocks.block_size
        return self._blocks.find(self._prefixes.keys(sequence, num_blocks))
