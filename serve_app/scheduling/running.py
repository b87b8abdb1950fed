"""Who runs, by rank, and what each holds: KV blocks and a pin on its place. Decides nothing.

A sequence gives its blocks and its place up at once, though a step that was planned for it may
still be under way. Whoever gets them then is planned in a later step, and steps run one after
another: what the earlier step writes there, it has written before the later one begins.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterator

from serve_app.scheduling.blocks import BlockLedger
from serve_app.scheduling.places import PlaceLedger
from serve_app.scheduling.plan import Chunk
from serve_app.scheduling.prefixes import Prefixes
from serve_app.scheduling.sequence import ModelKey, Sequence


class Running:
    """The sequences that run, first in rank first. prefixes: None where no blocks are shared."""

    def __init__(
        self, blocks: BlockLedger, places: PlaceLedger, prefixes: Prefixes | None = None
    ) -> None:
        self._blocks = blocks
        self._places = places
        self._prefixes = prefixes
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    @property
    def last(self) -> Sequence:
        """The lowest in rank."""
        return self._sequences[-1]

    def in_turn(self) -> list[Sequence]:
        """Those that have something to compute: decodes first, then prompts, by rank."""
        unready = (s for s in self._sequences if s.num_missing)
        return sorted(unready, key=lambda s: (s.num_missing > 1, s.rank))

    def by_model(self) -> dict[ModelKey, int]:
        """How many run, of each model of which something runs."""
        return dict(Counter(s.model for s in self._sequences))

    def fits(self, sequence: Sequence) -> bool:
        """Whether the free blocks hold all it knows, but for what others have of it."""
        shared = sum(self._blocks.is_used(block) for block in self._find(sequence) or ())
        needed = self._blocks.blocks_for(len(sequence.tokens)) - shared
        return needed <= self._blocks.num_free

    def begin(self, sequence: Sequence) -> None:
        """Let a sequence run whose backbone is resident, or arrives."""
        sequence.place = self._places.pin(sequence.backbone)
        insort(self._sequences, sequence, key=lambda s: s.rank)
        found = self._find(sequence)
        if found is not None:
            self._blocks.share(found)
            sequence.blocks = found
            sequence.num_found = sequence.num_computed = len(found) * self._blocks.block_size

    def _find(self, sequence: Sequence) -> list[int] | None:
        """Blocks that hold its first tokens, not the last known; None where none may be used.

        Of prompts whose logits are wanted every position is computed.
        """
        if self._prefixes is None or sequence.keep_prompt_logits or not sequence.is_alike:
            return None
        num_blocks = (len(sequence.tokens) - 1) // self._blocks.block_size
        return self._blocks.find(self._prefixes.keys(sequence, num_blocks))

    def note_computed(self, sequence: Sequence, start: int, end: int) -> None:
        """A step that computed these positions is committed; others may share full blocks."""
        if self._prefixes is None or not sequence.is_alike:
            return
        first, last = start // self._blocks.block_size, end // self._blocks.block_size
        keys = self._prefixes.keys(sequence, last) if first < last else []
        for index in range(first, last):
            self._blocks.keep(sequence.blocks[index], keys[index])

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's blocks and place away; it runs no more."""
        self._sequences.remove(sequence)
        self._blocks.free(sequence.blocks)
        self._places.unpin(sequence.backbone)
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_pending = 0
        sequence.place = None

    def room(self, sequence: Sequence) -> int:
        """How many more positions fit its blocks and the free ones."""
        num_blocks = len(sequence.blocks) + self._blocks.num_free
        return num_blocks * self._blocks.block_size - sequence.num_computed

    def new_blocks(self, sequence: Sequence, length: int) -> int:
        """How many blocks it lacks for that many more tokens."""
        needed = self._blocks.blocks_for(sequence.num_computed + length)
        return max(needed - len(sequence.blocks), 0)

    def advance(self, sequence: Sequence, length: int) -> Chunk:
        """Allocate the blocks of its next tokens. -> the chunk that computes them"""
        assert sequence.place is not None, f"{sequence.id} has no place"
        sequence.blocks += self._blocks.allocate(self.new_blocks(sequence, length))
        start, end = sequence.num_computed, sequence.num_computed + length
        prompt_len = len(sequence.prompt)
        pending = end > len(sequence.tokens)
        chunk = Chunk(
            sequence=sequence.id,
            model=sequence.model,
            place=sequence.place,
            start=start,
            tokens=(0,) if pending else tuple(sequence.tokens[start:end]),
            pending=pending,
            blocks=tuple(sequence.blocks[: self._blocks.blocks_for(end)]),
            prompt_len=prompt_len,
            forward_len=sequence.forward_len,
            samples=end == sequence.num_expected and sequence.max_tokens > 0,
            keep_prompt_logits=sequence.keep_prompt_logits
            and min(end, prompt_len) > max(sequence.num_prompt_kept, start),
            num_generated=sequence.num_expected - prompt_len,
        )
        sequence.num_computed = end
        sequence.num_pending += chunk.samples
        return chunk

    def check(self) -> None:
        """Assert that sequences, blocks and places say the same of who holds what."""
        self._blocks.check(s.blocks for s in self._sequences)
        self._places.check(Counter(s.backbone for s in self._sequences))
        ranks = [s.rank for s in self._sequences]
        assert ranks == sorted(ranks), "running sequences are not in order of rank"
        for s in self._sequences:
            assert s.place == self._places.place_of(s.backbone), f"{s.id} runs on another place"
            covered = len(s.blocks) * self._blocks.block_size
            assert s.num_computed <= min(covered, s.num_expected), (
                f"{s.id} computed what it cannot hold"
            )
            assert 0 <= s.num_pending <= 2, f"{s.id} waits for {s.num_pending} tokens"
