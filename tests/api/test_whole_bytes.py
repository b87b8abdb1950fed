"""Long answers are written in short parts, as the same bytes as short ones."""

import asyncio
import time
from typing import Any

import pytest
from starlette.responses import JSONResponse

from serve_app.api.answers.whole_bytes import num_values, parts_of, whole_bytes

_ALTERNATIVES = [{"token": "é", "logprob": -0.5, "bytes": [195, 169]}] * 20
_TOKEN = {"token": "a", "logprob": None, "bytes": [97], "top_logprobs": _ALTERNATIVES}
_LONG = {"a": {"content": [_TOKEN] * 300}, "b": [], "c": {}, "d": "x", "é": True}


@pytest.mark.parametrize(
    "value",
    [
        _LONG,
        [_LONG, 1, 2, _LONG],
        [1, [2] * 600, 3],
        [[1] * 600, [2] * 600],
        list(range(2000)),
        {str(number): number for number in range(2000)},
        {},
        "x",
    ],
)
def test_parts_joined_are_what_a_response_has(value: Any) -> None:
    parts = list(parts_of(value))
    assert "".join(parts).encode() == JSONResponse(value).body
    assert max(map(len, parts)) < 20_000


def test_values_are_counted_up_to_where_they_are_too_many() -> None:
    assert num_values({"a": [1, {"b": 2}], "c": 3}) == 6
    assert num_values([[0] * 10**6] * 10) < 2 * 10**6


def test_the_loop_goes_on_while_a_long_answer_is_written() -> None:
    async def run() -> tuple[bytes, float]:
        longest, writing = 0.0, asyncio.ensure_future(whole_bytes(lambda: _LONG, 10**6))
        while not writing.done():
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begun)
        return await writing, longest

    written, longest = asyncio.run(run())
    assert written == JSONResponse(_LONG).body
    assert longest < 0.02
