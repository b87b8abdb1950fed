"""Long bodies are read by a process of their own, and say the same as short ones."""

import asyncio
import json
import time
from typing import Any

import pytest

from serve_app import freeing
from serve_app.api.requests.body import LARGEST_TOKEN, MOST_VALUES, json_object
from serve_app.api.requests.fields import ChatFields
from serve_app.api.requests.long_bodies import Bodies
from serve_app.api.requests.most_tokens import MostTokens, check_lengths
from serve_app.api.requests.parse import checked
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.token_ids import num_tokens, packed, unpacked

LONG = 600_000
TOO_MANY = f"too many values: the limit is {MOST_VALUES}"


WEIGHTS = [0.25] * 128 + [0.0] * 128


async def _most() -> MostTokens:
    return {"tokens": 2 * LONG, "weights": WEIGHTS}


def _read(*bodies: bytes) -> tuple[list[Any], float]:
    """What comes of each, and the longest time that the loop stood still, in seconds."""

    async def run() -> tuple[list[Any], float]:
        reader, longest = Bodies(), 0.0
        each = [reader.json_object(body, _most) for body in bodies]
        reading = asyncio.gather(*each, return_exceptions=True)
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


def test_a_long_body_whose_prompt_no_model_takes_is_refused_where_it_is_read() -> None:
    long = json.dumps({"prompt": [7] * (2 * LONG + 1)}).encode()
    [refused], longest = _read(long)
    assert isinstance(refused, ProtocolError)
    assert (refused.code, refused.param) == ("context_length_exceeded", "prompt")
    assert f"at least {2 * LONG + 1} tokens" in refused.message
    assert longest < 0.02


def test_a_body_of_many_values_is_read_elsewhere_however_short_it_is() -> None:
    body = b'{"metadata": [' + b",".join([b"[]"] * 60_000) + b"]}"
    assert len(body) < 2**18
    [read], longest = _read(body)
    assert read == {"metadata": [[]] * 60_000}
    assert longest < 0.03


def test_memory_is_given_back_once_for_long_bodies_that_come_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = list[None]()
    monkeypatch.setattr(freeing, "_SOON_S", 0.01)
    monkeypatch.setattr(freeing, "give_back", lambda: given.append(None))

    async def run() -> None:
        reader = Bodies()
        await reader.json_object(b'{"prompt": "x"}', _most)
        await asyncio.sleep(0.05)
        assert not given
        long = b'{"prompt": "' + b"x" * LONG + b'"}'
        await asyncio.gather(*[reader.json_object(long, _most) for _ in range(2)])
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert len(given) == 1


TOO_LONG = "x" * 408


def _said_back(result: object) -> dict[str, Any]:
    """A message as Anthropic has it, with the result of a tool."""
    block = {"type": "tool_result", "tool_use_id": "t", "content": result}
    return {"role": "user", "content": [block]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": TOO_LONG}, "prompt"),
        ({"prompt": ["a", TOO_LONG]}, "prompt"),
        ({"prompt": [b"", packed([1] * 101)]}, "prompt"),
        ({"tokens": packed([1] * 101)}, "tokens"),
        ({"messages": [{"role": "user", "content": TOO_LONG}]}, "messages"),
        ({"messages": [{"role": "user", "content": TOO_LONG[:204]}] * 3}, "messages"),
        ({"messages": [{"role": "user", "content": [{"text": TOO_LONG}]}]}, "messages"),
        ({"input": TOO_LONG}, "input"),
        ({"input": [{"role": "user", "content": TOO_LONG}]}, "input"),
        ({"prompt": TOO_LONG[:400]}, None),
        ({"prompt": [TOO_LONG[:400]] * 9}, None),
        ({"prompt": "é" * 900, "suffix": TOO_LONG}, None),
        ({"messages": [{"role": "user", "content": " " * 900 + "x"}]}, None),
        ({"messages": [{"role": "assistant", "content": TOO_LONG}, 3]}, "messages"),
        ({"messages": [{"role": "system", "content": TOO_LONG}]}, "messages"),
        ({"messages": [{"role": "tool", "content": [{"text": TOO_LONG}]}]}, "messages"),
        ({"messages": [_said_back(TOO_LONG)]}, "messages"),
        ({"messages": [_said_back([{"text": TOO_LONG}])]}, "messages"),
        ({"messages": [_said_back(TOO_LONG[:9]), 5, _said_back(TOO_LONG[:9])]}, None),
        ({"input": [{"type": "function_call_output", "output": TOO_LONG}]}, "input"),
        ({"system": TOO_LONG}, "system"),
        ({"system": [{"type": "text", "text": TOO_LONG}]}, "system"),
        ({"instructions": TOO_LONG}, "instructions"),
        ({"messages": [{"role": "assistant", "content": f"{TOO_LONG}</think>x"}]}, None),
        ({"messages": [{"role": "assistant", "content": f"{TOO_LONG}[/THINK]x"}]}, None),
        ({"messages": [{"role": "assistant", "content": f"<|channel|>{TOO_LONG}"}]}, None),
        ({"messages": [{"role": "assistant", "reasoning_content": TOO_LONG}]}, None),
        ({"messages": [{"role": "assistant", "content": [{"thinking": TOO_LONG}]}]}, None),
        ({"messages": [{"role": "assistant", "tool_calls": [TOO_LONG]}]}, None),
        ({"input": [{"type": "reasoning", "content": [{"text": TOO_LONG}]}]}, None),
        ({"messages": {"role": "user"}, "prompt": [1.5, None], "tokens": "x"}, None),
    ],
)
def test_what_no_model_takes_is_refused_by_its_size_and_nothing_else_is(
    body: dict[str, Any], param: str | None
) -> None:
    if param is None:
        check_lengths(body, {"tokens": 100, "weights": WEIGHTS})
        return
    with pytest.raises(ProtocolError) as refused:
        check_lengths(body, {"tokens": 100, "weights": WEIGHTS})
    assert refused.value.param == param


@pytest.mark.parametrize(
    "field",
    [
        {"messages": [{"role": "user", "content": " " * 2**20 + "x"}]},
        {"messages": [{"role": "assistant", "reasoning_content": "x" * (2**20 + 1)}]},
        {"messages": [{"role": "assistant", "content": "</think>" + "あ" * 350_000}]},
        {"tools": [{"function": {"parameters": {"x" * (2**20 + 1): 1}}}]},
        {"chat_template_kwargs": {"a": ["x" * 2**19] * 3}},
        {"prompt": " " * (2**20 + 1)},
        {"prompt": ["x", " " * (2**20 + 1)]},
    ],
)
def test_texts_that_may_be_left_out_are_refused_by_their_bytes(field: dict[str, Any]) -> None:
    [name] = field
    with pytest.raises(ProtocolError, match=rf"'{name}': it has 1\d+ bytes") as refused:
        check_lengths(field, {"tokens": 100, "weights": None})
    assert refused.value.param == name
    is_prompt = name in ("prompt", "messages")
    assert (refused.value.code == "context_length_exceeded") is is_prompt
    check_lengths(field, {"tokens": 2**17, "weights": None})


def test_an_image_is_not_refused_by_its_size_but_by_its_kind() -> None:
    url = {"url": "data:image/png;base64," + "A" * 2**21}
    image = {"type": "image_url", "image_url": url}
    fields = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, image]}]}
    check_lengths(fields, {"tokens": 100, "weights": None})
    with pytest.raises(ProtocolError, match="parts of type 'image_url' are not supported here"):
        checked({"model": "m", **fields}, ChatFields)


def test_several_prompts_may_be_long_together() -> None:
    fields = {"prompt": [" " * 2**20, b"0" * 2**22, " " * 2**20]}
    check_lengths(fields, {"tokens": 2**20, "weights": None})


def test_texts_of_which_nothing_is_known_are_not_refused() -> None:
    check_lengths({"prompt": TOO_LONG}, {"tokens": 100, "weights": None})
