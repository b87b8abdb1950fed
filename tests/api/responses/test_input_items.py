"""The items that clients send become the messages of a chat."""

from typing import Any

import pytest

from serve_app.api.requests.parse import parse
from serve_app.api.responses.response_fields import ResponseFields
from serve_app.protocol.errors import ProtocolError
from tests.api.responses.asking import asked

USER = {"role": "user", "content": "hi"}
THOUGHT = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "so"}],
}
SAID = {
    "type": "message",
    "id": "msg_1",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
}
CALL = {
    "type": "function_call",
    "call_id": "c1",
    "name": "f",
    "arguments": '{"a": 1}',
    "id": "fc_1",
}
OTHER = {**CALL, "call_id": "c2", "arguments": ""}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "5"}


def _called(name: str, arguments: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "f", "arguments": arguments}}


def _messages(*items: Any) -> list[dict[str, Any]]:
    return asked(input=list(items)).input


def test_a_text_is_a_message_of_the_user() -> None:
    assert asked(input="hi").input == [USER]


@pytest.mark.parametrize("kind", ["input_text", "text"])
def test_parts_of_a_message_are_lines_of_its_text(kind: str) -> None:
    parts = [{"type": kind, "text": "a"}, {"type": kind, "text": "b"}]
    assert _messages({"type": "message", "role": "developer", "content": parts}) == [
        {"role": "developer", "content": "a\nb"}
    ]


def test_reasoning_a_text_and_calls_are_one_answer_and_results_follow_it() -> None:
    call = {**CALL, "id": "fc_1", "status": "completed"}
    assert _messages(USER, THOUGHT, SAID, call, OTHER, RESULT, SAID) == [
        USER,
        {
            "role": "assistant",
            "reasoning_content": "so",
            "content": "I look.",
            "tool_calls": [_called("c1", '{"a": 1}'), _called("c2", "{}")],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "5"},
        {"role": "assistant", "content": "I look."},
    ]


def test_a_call_alone_is_an_answer_without_a_text() -> None:
    [answer] = _messages(CALL)
    assert answer == {
        "role": "assistant",
        "content": "",
        "tool_calls": [_called("c1", '{"a": 1}')],
    }


def test_a_text_after_a_call_is_of_the_same_answer() -> None:
    [answer] = _messages(SAID, CALL, SAID)
    assert answer["content"] == "I look.I look."


def test_answers_that_follow_each_other_stay_apart() -> None:
    assert [each["content"] for each in _messages(SAID, SAID)] == ["I look."] * 2
    first, second = _messages(SAID, THOUGHT, SAID)
    assert "reasoning_content" not in first
    assert second["reasoning_content"] == "so"


def test_reasoning_is_its_content_or_what_a_summary_says() -> None:
    short = {"type": "summary_text", "text": "short"}
    [whole] = _messages({**THOUGHT, "summary": [short]})
    [summary] = _messages({"type": "reasoning", "id": "rs_1", "summary": [short], "content": None})
    [two] = _messages(THOUGHT, THOUGHT)
    assert whole["reasoning_content"] == "so"
    assert summary["reasoning_content"] == "short"
    assert two["reasoning_content"] == "so\nso"
    assert _messages(USER, {"type": "reasoning", "summary": []}) == [USER]


def test_a_result_is_a_text_or_parts_of_it() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert _messages(CALL, {**RESULT, "output": parts, "name": "g"})[-1]["content"] == "a\nb"


@pytest.mark.parametrize(
    ("items", "param", "says"),
    [
        ([], "input", "non-empty list"),
        (7, "input", "must be a string"),
        ([{"type": "reasoning", "summary": []}], "input", "says something"),
        ([7], "input[0]", "must be an object"),
        ([{"type": 7}], "input[0].type", "must be a string"),
        ([USER, {"role": "user"}], "input[1].content", "Missing"),
        ([{"content": "x"}], "input[0].role", "Missing"),
        ([{**USER, "role": "tool"}], "input[0].role", "user, assistant, system, developer"),
        ([{**USER, "role": ["user"]}], "input[0].role", "must be one of"),
        ([{**USER, "nmae": "x"}], "input[0].nmae", "not supported"),
        ([{**USER, "content": 7}], "input[0].content", "a string or a list of parts"),
        ([{**USER, "content": [{"text": "x"}]}], "input[0].content[0].type", "Missing"),
        ([{**USER, "content": [{"type": "input_text"}]}], "input[0].content[0].text", "Missing"),
        (
            [{**USER, "content": [{"type": "input_text", "text": 1}]}],
            "input[0].content[0].text",
            "must be a string",
        ),
        (
            [{**USER, "content": [{"type": "input_text", "text": "x", "bold": True}]}],
            "input[0].content[0].bold",
            "not supported",
        ),
        (
            [{**USER, "content": [{"type": "output_text", "text": "x"}]}],
            "input[0].content[0]",
            "parts of type 'output_text'",
        ),
        (
            [{**USER, "content": [{"type": "input_image", "image_url": "x"}]}],
            "input[0].content[0]",
            "parts of type 'input_image' are not supported here: text models are served",
        ),
        (
            [{**USER, "content": [{"type": "input_file", "file_id": "x"}]}],
            "input[0].content[0]",
            "parts of type 'input_file'",
        ),
        (
            [CALL, {**RESULT, "output": [{"type": "input_image", "file_id": "x"}]}],
            "input[1].output[0]",
            "parts of type 'input_image'",
        ),
        ([{**CALL, "name": None}], "input[0].name", "Missing"),
        ([{**CALL, "arguments": {}}], "input[0].arguments", "must be a string"),
        ([{**CALL, "namespace": "x"}], "input[0].namespace", "not supported"),
        ([RESULT], "input[0].call_id", "no function_call before has the call_id 'c1'"),
        ([{"type": "item_reference", "id": "x"}], "input[0]", "send the item itself"),
        ([{"type": "web_search_call"}], "input[0]", "items of type 'web_search_call'"),
        (
            [{"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}],
            "input[0].encrypted_content",
            "encrypted",
        ),
    ],
)
def test_what_cannot_be_told_to_a_model_is_refused_by_its_place(
    items: Any, param: str, says: str
) -> None:
    with pytest.raises(ProtocolError, match=says) as caught:
        asked(input=items)
    assert caught.value.param == param


def test_an_input_is_needed() -> None:
    with pytest.raises(ProtocolError, match="Missing required parameter: 'input'"):
        parse(b'{"model": "m"}', ResponseFields)
