"""Which KV blocks are free, and what they hold. Counts only: the tensors live in the engine's
KV store.

A block is used by one sequence, or by several that share its content. A full block may be known by
a key of its content. It stays known while it is free, until another sequence gets it. Blocks of
unknown content go first, then those that were given back longest ago.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

ContentKey = tuple[str, bytes]
"""(release, digest of everything on which the keys and values in the block depend)"""
BLOCKS = "blocks"
"""The kind of need that they are."""


class BlockLedger:
    """`num_blocks` blocks, each for `block_size` positions of one sequence."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(
                f"num_blocks {num_blocks} and block_size {block_size} must be at least 1"
            )
        self.kind = BLOCKS
        self.noun = f"KV blocks of {block_size} tokens"
        self.num_units = num_blocks
        self.block_size = block_size
        self._users = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._kept: dict[int, None] = {}
        self._keys: list[ContentKey | None] = [None] * num_blocks
        self._block_of: dict[ContentKey, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._kept)

    @property
    def num_used(self) -> int:
        return self.num_units - self.num_free

    def is_used(self, block: int) -> bool:
        return self._users[block] > 0

    def units_for(self, num_positions: int, num_inputs: int = 0) -> int:
        """How many blocks are needed for that many positions of one sequence; see `Ledger`."""
        return max(-(-(num_positions - num_inputs) // self.block_size), 0)

    def positions_in(self, num_units: int, num_inputs: int = 0) -> int:
        """How many positions of one sequence fit into that many blocks; see `Ledger`."""
        return num_inputs + num_units * self.block_size

    def fits(self, count: int) -> bool:
        """Whether that many blocks are free."""
        return count <= self.num_free

    def take(self, count: int) -> list[int]:
        """Take `count` free blocks, whose content is then unknown.

        All or nothing: ValueError if fewer are free.
        """
        if count < 0 or not self.fits(count):
            raise ValueError(f"{count} KV blocks wanted; {self.num_free} are free")
        for block in list(islice(self._kept, max(0, count - len(self._empty)))):
            self._forget(block)
        taken = [self._empty.pop() for _ in range(count)]
        for block in taken:
            self._users[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Use blocks of known content once more.

        All or nothing: ValueError if one is not known or is given twice.
        """
        wanted = list(blocks)
        wrong = [block for block in wanted if self._keys[block] is None]
        if wrong or len(set(wanted)) != len(wanted):
            raise ValueError(f"KV blocks {wanted} cannot be shared: {wrong or 'repeated'}")
        for block in wanted:
            self._users[block] += 1
            self._kept.pop(block, None)

    def give_back(self, blocks: Iterable[int]) -> None:
        """Give blocks back. All or nothing: ValueError if one is not in use or is given twice.

        The last of them will be the first to be forgotten.
        """
        given = list(blocks)
        wrong = [b for b in given if not 0 <= b < self.num_units or not self._users[b]]
        if wrong or len(set(given)) != len(given):
            raise ValueError(f"KV blocks {given} cannot be given back: {wrong or 'repeated'}")
        for block in reversed(given):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if self._keys[block] is None:
                self._empty.append(block)
            else:
                self._kept[block] = None

    def keep(self, block: int, key: ContentKey) -> None:
        """Record a used block's content, unless it, or another block for that key, is known."""
        if self._users[block] and self._keys[block] is None and key not in self._block_of:
            self._keys[block] = key
            self._block_of[key] = block

    def find(self, keys: Sequence[ContentKey]) -> list[int]:
        """The known blocks for the first of these keys, up to the first unknown key."""
        found = []
        for key in keys:
            if key not in self._block_of:
                break
            found.append(self._block_of[key])
        return found

    def forget(self, release: str) -> None:
        """Forget the known blocks of this release."""
        for key in [key for key in self._block_of if key[0] == release]:
            self._forget(self._block_of[key])

    def check(self, owners: Iterable[Iterable[int]]) -> None:
        """Assert that these lists own every used block, and share only known ones."""
        owned = Counter(block for blocks in owners for block in blocks)
        used = {block: users for block, users in enumerate(self._users) if users}
        assert dict(sorted(owned.items())) == used, f"owned {owned}, used {used}"
        shared = [b for b, users in used.items() if users > 1 and self._keys[b] is None]
        assert not shared, f"blocks have two owners and unknown content: {shared}"
        known = {key: block for block, key in enumerate(self._keys) if key is not None}
        assert known == self._block_of, f"keys {known}, index {self._block_of}"
        free = {block for block in known.values() if block not in used}
        assert free == set(self._kept), f"known and free {free}, kept {list(self._kept)}"
        everything = sorted([*self._empty, *self._kept, *used])
        assert everything == list(range(self.num_units)), "blocks were lost"

    def _forget(self, block: int) -> None:
        """Forget the content of a known block."""
        key = self._keys[block]
        assert key is not None, f"nothing is known of block {block}"
        self._keys[block] = None
        del self._block_of[key]
        if block in self._kept:
            del self._kept[block]
            self._empty.append(block)
