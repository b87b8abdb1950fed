"""Calls a function by threads, a few calls ahead of who takes the results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD_BYTES = 512 << 20
"""Of what is being read, or was and is not taken yet; one item may be larger."""


def few_ahead(
    pool: ThreadPoolExecutor,
    ahead: int,
    function: Callable[..., Result],
    *arguments: Iterable[object],
) -> Generator[Result, None, None]:
    """As `map`: results come in order. At most `ahead` are being made or wait to be taken.

    Once nobody takes more, or a call raises, calls that have not begun are not made.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for one in zip(*arguments, strict=False):
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, *one))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def read_ahead(
    read: Callable[[Item], Result], items: Sequence[Item], num_bytes: Sequence[int], at_once: int
) -> Iterator[Result]:
    """What `read` gives for each item, in order; `at_once` of them are read at a time.

    num_bytes: of each item. Fewer are read at once where they are large. One at a time is read
    when it is asked for, so that no second one is in memory.
    """
    at_once = max(1, min(at_once, AHEAD_BYTES // max(num_bytes, default=1)))
    if at_once == 1:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(at_once) as pool:
        yield from few_ahead(pool, at_once, read, items)
