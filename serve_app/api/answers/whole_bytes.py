"""Writes answers as JSON, in the bytes that `JSONResponse` gives. Shapes none.

A long one is made on a thread. Python lets others have the interpreter after 5 ms there, but `json`
does not while it writes, so it is given parts of some hundred values.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

_AT_ONCE = 500
"""Values that are written in one call, in less than a millisecond."""
_SHORT = 4000
"""Tokens that are not worth a thread."""


async def whole_bytes(make: Callable[[], Any], num_tokens: int) -> bytes:
    """make: the answer.   num_tokens: about how many it tells of"""
    if num_tokens <= _SHORT:
        return _written(make()).encode()
    return await asyncio.to_thread(lambda: "".join(parts_of(make())).encode())


def parts_of(value: Any) -> Iterator[str]:
    """The JSON of a value, in parts."""
    if num_values(value) <= _AT_ONCE:
        yield _written(value)
    elif isinstance(value, dict):
        for number, (name, each) in enumerate(value.items()):
            yield f"{',' if number else '{'}{_written(name)}:"
            yield from parts_of(each)
        yield "}"
    else:
        yield "["
        yield from _of_list(value)
        yield "]"


def _of_list(values: list[Any]) -> Iterator[str]:
    """What is between the brackets."""
    ready: list[Any] = []
    num, separator = 0, ""
    for value in values:
        size = num_values(value)
        if ready and num + size > _AT_ONCE:
            yield separator + _written(ready)[1:-1]
            ready, num, separator = [], 0, ","
        if size > _AT_ONCE:
            yield separator
            yield from parts_of(value)
            separator = ","
        else:
            ready.append(value)
            num += size
    if ready:
        yield separator + _written(ready)[1:-1]


def num_values(value: Any) -> int:
    """How many are in it, itself included; ends once they are too many to be written at once."""
    num, left = 1, [value]
    while left and num <= _AT_ONCE:
        each = left.pop()
        if isinstance(each, list | dict):
            num += len(each)
            if num <= _AT_ONCE:
                left += each if isinstance(each, list) else each.values()
    return num


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
