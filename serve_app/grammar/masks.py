"""Computes which tokens may come next, for several answers at once, beside a running step."""

from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import fill_next_token_bitmask_par
from numpy.typing import NDArray

from serve_app.grammar.following import Following

Words = NDArray[np.int32]


class MaskMaker:
    """One thread, in which llguidance leaves the interpreter to others, and its own for more rows.

    Both are made when they are first needed.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._executor: LLExecutor | None = None
        self._thread = ThreadPoolExecutor(1, "masks")

    def begin(self, rows: Sequence[Following]) -> "BegunMasks":
        """That thread does nothing but wait for llguidance: whatever else it did, it would have to
        take the interpreter from the running step.
        """
        if self._executor is None:
            self._executor = LLExecutor(self._num_threads)
        parts = [_Part(size, rows, numbers) for size, numbers in _by_size(rows).items()]
        filled = [self._thread.submit(partial(part.fill, self._executor)) for part in parts]
        return BegunMasks(rows, parts, filled)

    def close(self) -> None:
        self._thread.shutdown(wait=False)


class _Part:
    """Rows of one vocabulary, and their masks."""

    def __init__(self, size: int, rows: Sequence[Following], numbers: Sequence[int]) -> None:
        """numbers: of these rows among all."""
        self.rows = [rows[number] for number in numbers]
        self.numbers = numbers
        self._size = size
        self.words: Words = np.zeros((len(numbers), self.rows[0].vocabulary.num_words), np.int32)
        self._matchers = [(row.matcher, at) for at, row in enumerate(self.rows)]

    def fill(self, executor: LLExecutor) -> None:
        fill_next_token_bitmask_par(executor, self._matchers, self.words)

    def finish(self) -> None:
        """The end of an answer, which is no token, becomes its stops. Where an answer is lost, all
        tokens are allowed.
        """
        bits = self.words.view(np.uint32)
        word, bit = divmod(self._size, 32)
        accepts = bits[:, word] >> np.uint32(bit) & np.uint32(1)  # (n,)
        bits[:, word] &= np.uint32(~(1 << bit) & 0xFFFFFFFF)
        for at in accepts.nonzero()[0].tolist():
            if self.rows[at].may_stop:
                _allow(self.rows[at].stops, bits[at])
        for at, row in enumerate(self.rows):
            row.look()
            if row.lost is not None:
                self.words[at] = -1


class BegunMasks:
    """Masks that are being computed."""

    def __init__(
        self,
        rows: Sequence[Following],
        parts: Sequence[_Part],
        filled: "Sequence[Future[None]]",
    ) -> None:
        self._rows = rows
        self._parts = parts
        self._filled = filled

    def words(self) -> Words:
        """Waits for them.

        (n, W) int32, a row for each answer: bit b of word w is token 32 w + b. Where an answer is
        over or lost, all tokens are allowed: what is chosen is thrown away.
        """
        for part, filled in zip(self._parts, self._filled, strict=True):
            filled.result()
            part.finish()
        if len(self._parts) == 1 and len(self._parts[0].rows) == len(self._rows):
            return self._parts[0].words
        width = max(row.vocabulary.num_words for row in self._rows)
        made = np.zeros((len(self._rows), width), np.int32)
        left = set(range(len(self._rows)))
        for part in self._parts:
            made[part.numbers, : part.words.shape[1]] = part.words
            left.difference_update(part.numbers)
        made[sorted(left)] = -1
        return made


def _by_size(rows: Sequence[Following]) -> dict[int, list[int]]:
    """The numbers of those that may go on, by the tokens of their vocabulary."""
    found: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if not row.is_over and row.lost is None:
            found.setdefault(row.vocabulary.size, []).append(number)
    return found


def _allow(tokens: Collection[int], bits: NDArray[np.uint32]) -> None:
    """bits: (W,)"""
    for token in tokens:
        if token < 32 * len(bits):
            bits[token // 32] |= np.uint32(1 << token % 32)
