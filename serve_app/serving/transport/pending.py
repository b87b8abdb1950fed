"""A list that one reader empties at once, or waits for while empty. For one event loop."""

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Pending(Generic[_T]):
    """The items that have come but were not taken yet, in order. True if there are any."""

    def __init__(self) -> None:
        self._items: list[_T] = []
        self._come = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, items: Iterable[_T] = ()) -> None:
        """Add items, and wake the reader, even if there are none."""
        self._items += items
        self._come.set()

    async def take(self) -> list[_T]:
        """Everything that has come. Waits for a `put`, so it may be nothing."""
        await self._come.wait()
        self._come.clear()
        taken, self._items = self._items, []
        return taken
