"""Computes which tokens may come next, for several answers at once, beside a running step."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

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

    def begin(self, rows: Sequence[Following]) -> "Future[Words]":
        """Masks of these answers, as bits of words, a row for each; see `_made`."""
        return self._thread.submit(self._made, rows)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    def _made(self, rows: Sequence[Following]) -> Words:
        """(n, W) int32: bit b of word w is token 32 w + b. Where an answer is over or lost, all
        tokens are allowed: what is chosen is thrown away.
        """
        made = np.zeros((len(rows), max(row.vocabulary.num_words for row in rows)), np.int32)
        for num_words, numbers in _by_width(rows).items():
            part = np.zeros((len(numbers), num_words), np.int32)
            self._fill([rows[number] for number in numbers], part)
            made[numbers, :num_words] = part
        for row, words in zip(rows, made, strict=True):
            row.look()
            if row.is_over or row.lost is not None:
                words[:] = -1
            else:
                _allow_stops(row, words)
        return made

    def _fill(self, rows: Sequence[Following], into: Words) -> None:
        if self._executor is None:
            self._executor = LLExecutor(self._num_threads)
        matchers = [(row.matcher, number) for number, row in enumerate(rows)]
        fill_next_token_bitmask_par(self._executor, matchers, into)


def _by_width(rows: Sequence[Following]) -> dict[int, list[int]]:
    """The numbers of those that may go on, by the words of their masks."""
    found = defaultdict(list)
    for number, row in enumerate(rows):
        if not row.is_over and row.lost is None:
            found[row.vocabulary.num_words].append(number)
    return found


def _allow_stops(row: Following, words: Words) -> None:
    """The end of an answer, which is no token, becomes its stops."""
    bits = words.view(np.uint32)
    word, bit = divmod(row.vocabulary.size, 32)
    accepts = bool(bits[word] >> np.uint32(bit) & np.uint32(1))
    bits[word] &= np.uint32(~(1 << bit) & 0xFFFFFFFF)
    if accepts and row.may_stop:
        for token in row.stops:
            if token < 32 * len(bits):
                bits[token // 32] |= np.uint32(1 << token % 32)
