"""Which KV blocks are free. Counts only: the tensors live in the engine's KV store."""

from collections.abc import Iterable


class BlockLedger:
    """`num_blocks` blocks, each for `block_size` positions of one sequence."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(
                f"num_blocks {num_blocks} and block_size {block_size} must be at least 1"
            )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._used = [False] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_positions: int) -> int:
        """How many blocks hold that many positions of one sequence."""
        return -(-num_positions // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks. All or nothing: ValueError when fewer are free."""
        if not 0 <= count <= len(self._free):
            raise ValueError(f"{count} KV blocks wanted; {len(self._free)} are free")
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._used[block] = True
        return taken

    def free(self, blocks: Iterable[int]) -> None:
        """Give blocks back. All or nothing: ValueError when one is not in use or comes twice."""
        given = list(blocks)
        wrong = [b for b in given if not 0 <= b < self.num_blocks or not self._used[b]]
        if wrong or len(set(given)) != len(given):
            raise ValueError(f"KV blocks {given} cannot be freed: {wrong or 'repeated'}")
        for block in reversed(given):
            self._used[block] = False
            self._free.append(block)

    def check(self, owners: Iterable[Iterable[int]]) -> None:
        """Assert that these lists own every used block exactly once, and no other."""
        owned = [block for blocks in owners for block in blocks]
        assert len(set(owned)) == len(owned), f"a block has two owners: {sorted(owned)}"
        used = [block for block, is_used in enumerate(self._used) if is_used]
        assert sorted(owned) == used, f"owned {sorted(owned)}, used {used}"
        assert sorted(self._free + used) == list(range(self.num_blocks)), "blocks were lost"
