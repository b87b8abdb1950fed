"""Long bodies are read by a process of their own, and say the same as short ones."""

import asyncio
import json
import time
from typing import Any

import pytest

from serve_app.api.requests.body import LARGEST_TOKEN, MOST_VALUES, json_object
from serve_app.api.requests.long_bodies import Bodies
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.token_ids import num_tokens, packed, unpacked

LONG = 600_000
TOO_MANY = f"too many values: the limit is {MOST_VALUES}"


def _read(*bodies: bytes) -> tuple[list[Any], float]:
    """What comes of each, and the longest time that the loop stood still, in seconds."""

    async def run() -> tuple[list[Any], float]:
        reader, longest = Bodies(), 0.0
        reading = asyncio.gather(*map(reader.json_object, bodies), return_exceptions=True)
        while not reading.done():
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begun)
            await asyncio.sleep(0.002)
        return await reading, longest

    return asyncio.run(run())


def test_a_long_body_is_read_as_a_short_one_and_the_loop_goes_on() -> None:
    tokens = [7, LARGEST_TOKEN] * LONG
    body = {"model": "é", "prompt": tokens, "messages": [{"a": [1.5, None, True, "x" * LONG]}]}
    [read, refused], longest = _read(json.dumps(body).encode(), b'{"stop": ["' + b"x" * LONG)
    assert read == {**body, "prompt": packed(tokens)}
    assert isinstance(refused, ProtocolError)
    assert "not valid JSON" in refused.message
    assert longest < 0.1


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([3, 4], packed([3, 4])),
        ([[3], [4, 5]], [packed([3]), packed([4, 5])]),
        ([[3], []], [packed([3]), []]),
        ([3, True], [3, True]),
        ([3, -1], [3, -1]),
        ([LARGEST_TOKEN + 1], [LARGEST_TOKEN + 1]),
        ("3", "3"),
        ([], []),
    ],
)
def test_lists_of_token_ids_are_packed_and_nothing_else_is(prompt: Any, expected: Any) -> None:
    read = json_object(json.dumps({"prompt": prompt, "stop": [3, 4]}).encode())
    assert read == {"prompt": expected, "stop": [3, 4]}


def test_packed_tokens_are_counted_and_come_back() -> None:
    tokens = [0, 5, LARGEST_TOKEN]
    assert num_tokens(packed(tokens)) == 3
    assert unpacked(packed(tokens)) == tokens


@pytest.mark.parametrize("size", [MOST_VALUES, 2**19, 2**22])
@pytest.mark.parametrize(
    "value", [b"[]", b"1.5", b'"a"', b'{"a":1}', b'"\\\\"', b'"\\""', b"1", b"[1,2]"]
)
def test_more_values_than_may_be_are_refused(value: bytes, size: int) -> None:
    values = b",".join([value] * max(MOST_VALUES, size // (len(value) + 1)))
    with pytest.raises(ProtocolError, match=TOO_MANY):
        json_object(b'{"metadata":[' + values + b"]}")


def test_as_many_values_as_may_be_and_any_number_of_tokens_are_taken() -> None:
    texts = ['[{,"\\'] * (MOST_VALUES - 6)
    body = {"stop": texts, "prompt": [[5] * LONG, [6]], "a": "\\" * 2**20}
    assert json_object(json.dumps(body).encode())["stop"] == texts
