"""Vocabularies and compiled grammars that several answers share. Decides nothing about answers."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

from serve_app.grammar.vocabulary import Grammar, Vocabulary

_MOST = 128
T = TypeVar("T")


class Compiler:
    """All on one event loop. Compiles one grammar at a time, on a thread, during which others have
    the interpreter. Keeps the last ones.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._vocabularies: WeakValueDictionary[str, Vocabulary] = WeakValueDictionary()
        self._compiled: OrderedDict[tuple[int, str], Grammar] = OrderedDict()

    async def vocabulary(
        self, digest: str, facts: Callable[[], Awaitable[tuple[Sequence[bytes], Sequence[int]]]]
    ) -> Vocabulary:
        """One for all that use it at the same time. facts: its tokens and special ones."""
        there = self._vocabularies.get(digest)
        if there is None:
            there = await self._run(Vocabulary, *await facts())
            self._vocabularies[digest] = there
        return there

    async def compiled(self, vocabulary: Vocabulary, source: str) -> Grammar:
        """Raises BadGrammar."""
        key = id(vocabulary), source
        there = self._compiled.get(key)
        if there is None:
            there = await self._run(vocabulary.compile, source)
            self._compiled[key] = there  # keeps its vocabulary, so the key stays its own
            if len(self._compiled) > _MOST:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return there

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *given: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)
