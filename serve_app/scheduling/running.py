"""Who runs, and what each holds: its needs and a pin on its place. Decides nothing.

A sequence gives up what it holds and its place at once, even if a step that was planned for it is
still running. Whoever gets them is planned in a later step, and steps run one after another: the
earlier step has written everything before the later one begins.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from serve_app.scheduling.ledgers.places import PlaceLedger
from serve_app.scheduling.needs import Needs
from serve_app.scheduling.plan import Chunk
from serve_app.scheduling.prefix_cache import PrefixCache
from serve_app.scheduling.sequence import Held, Sequence


class InTurn(NamedTuple):
    """Running sequences that miss one token, and those that miss more."""

    decodes: list[Sequence]
    prompts: list[Sequence]


def _arrival(sequence: Sequence) -> tuple[float, int]:
    return sequence.arrival, sequence.number


class Running:
    """The running sequences, in order of arrival. cache: None if nothing is shared."""

    def __init__(self, needs: Needs, places: PlaceLedger, cache: PrefixCache | None) -> None:
        self._needs = needs
        self._places = places
        self._cache = cache
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def in_turn(self) -> tuple[InTurn, InTurn]:
        """The urgent ones that have something to compute, and those of batch."""
        urgent, batch = InTurn([], []), InTurn([], [])
        for sequence in self._sequences:
            missing = sequence.num_missing
            if missing:
                lane = batch if sequence.is_batch else urgent
                (lane.decodes if missing == 1 else lane.prompts).append(sequence)
        return urgent, batch

    def fits(self, sequence: Sequence, without: Iterable[Sequence] = ()) -> bool:
        """Whether it can get what its known tokens need, beyond what it can share.

        without: running sequences that would give way first.
        """
        shared = self._cache.shared(sequence) if self._cache else {}
        return self._needs.fits(sequence, shared, without)

    def begin(self, sequence: Sequence) -> None:
        """Start a sequence whose backbone is resident or arriving."""
        sequence.place = self._places.pin(sequence.backbone)
        insort(self._sequences, sequence, key=_arrival)
        if self._cache is not None:
            self._cache.begin(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take what a sequence holds, and its place; it no longer runs."""
        self._sequences.remove(sequence)
        self._needs.give_back(sequence)
        self._places.unpin(sequence.backbone)
        sequence.num_computed = 0
        sequence.num_pending = 0
        sequence.place = None

    def room(self, sequence: Sequence) -> int:
        """For how many more positions its own units and the free ones are enough."""
        return self._needs.room(sequence)

    def has(self, sequence: Sequence, length: int) -> Held | None:
        """By kind, its own units for that many more positions; None if it lacks some."""
        return self._needs.has(sequence, length)

    def take(self, sequence: Sequence, length: int) -> Held:
        """The same, once it was given what it lacks. ValueError if there is too little."""
        return self._needs.take(sequence, length)

    def fit(self, lengths: Iterable[tuple[Sequence, int]]) -> bool:
        """Whether all of these can get what they need for that many more tokens."""
        return self._needs.fit(lengths)

    def advance(self, sequence: Sequence, length: int, held: Held) -> Chunk:
        """The chunk that computes its next tokens. held: what it needs for them, by kind."""
        assert sequence.place is not None, f"{sequence.id} has no place"
        start, end = sequence.num_computed, sequence.num_computed + length
        prompt_len, tokens = sequence.prompt_len, sequence.tokens
        expected = len(tokens) + sequence.num_pending
        pending = end > len(tokens)
        samples = end == expected and sequence.max_tokens > 0
        keep_prompt_logits = sequence.keep_prompt_logits and (
            min(end, prompt_len) > max(sequence.num_prompt_kept, start)
        )
        sequence.num_computed = end
        sequence.num_pending += samples
        return Chunk(  # by position, which takes half as long as by name
            sequence.id,
            sequence.model,
            sequence.place,
            start,
            (0,) if pending else (tokens[start],) if length == 1 else tuple(tokens[start:end]),
            pending,
            held,
            prompt_len,
            sequence.forward_len,
            samples,
            keep_prompt_logits,
            expected - prompt_len,
            sequence.by_length,
            sequence.num_inputs,
        )

    def check(self) -> None:
        """Assert that sequences, ledgers and places agree about who holds what."""
        self._needs.check(self._sequences)
        self._places.check(Counter(s.backbone for s in self._sequences))
        arrivals = [_arrival(s) for s in self._sequences]
        assert arrivals == sorted(arrivals), "running sequences are not in order of arrival"
        for s in self._sequences:
            assert s.place == self._places.place_of(s.backbone), f"{s.id} runs on another place"
            assert s.num_computed <= s.num_expected, f"{s.id} computed what it does not know"
            assert 0 <= s.num_pending <= 2, f"{s.id} waits for {s.num_pending} tokens"
