"""Histories in every form that clients send become the one that chat templates know."""

from typing import Any

import pytest

from serve_app.api.requests.fields import ChatFields
from serve_app.api.requests.parse import parse
from serve_app.protocol.errors import ProtocolError
from tests.api.requests.test_fields import parsed_chat

FUNCTION = {"name": "f", "arguments": '{"a": 1}'}
CALL = {"id": "x1", "type": "function", "function": FUNCTION}
_WITH_OBJECT = {"name": "f", "arguments": {"ä": 1}}
TOLD = {"type": "function", "function": FUNCTION}


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "x1", **TOLD}]},
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": FUNCTION, "index": 3}]},
            {"role": "assistant", "content": "", "tool_calls": [TOLD]},
        ),
        (
            {"role": "assistant", "content": "y", "function_call": FUNCTION, "refusal": None},
            {"role": "assistant", "content": "y", "tool_calls": [TOLD]},
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": {"ä": 1}}}],
            },
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": '{"ä": 1}'}}
                ],
            },
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
        ),
        (
            {"role": "assistant", "content": None, "reasoning": "so"},
            {"role": "assistant", "content": "", "reasoning_content": "so"},
        ),
        (
            {"role": "assistant", "content": "y", "reasoning": "a", "reasoning_content": "b"},
            {"role": "assistant", "content": "y", "reasoning_content": "b"},
        ),
        (
            {"role": "tool", "content": [{"type": "text", "text": "5"}], "tool_call_id": "x1"},
            {"role": "tool", "content": "5", "tool_call_id": "x1"},
        ),
        (
            {"role": "function", "content": "5", "name": "f"},
            {"role": "tool", "content": "5", "name": "f"},
        ),
        (
            {"role": "developer", "content": "be brief", "name": "me"},
            {"role": "developer", "content": "be brief", "name": "me"},
        ),
        (
            {"role": "assistant", "content": "y", "tool_calls": [], "function_call": None},
            {"role": "assistant", "content": "y"},
        ),
    ],
)
def test_a_message_of_a_history_has_one_form(given: Any, known: Any) -> None:
    assert parsed_chat(messages=[given]).messages == [known]


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "assistant", "content": None}, "messages[0].content", None),
        ({"role": "assistant"}, "messages[0].content", None),
        ({"role": "tool", "tool_call_id": "x"}, "messages[0].content", None),
        ({"role": "tool", "content": "5", "tool_call_id": 5}, "messages[0].tool_call_id", None),
        ({"role": "assistant", "tool_calls": CALL}, "messages[0].tool_calls", None),
        ({"role": "assistant", "tool_calls": [5]}, "messages[0].tool_calls[0]", None),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function", None),
        (
            {"role": "assistant", "tool_calls": [{"function": {}}]},
            "messages[0].tool_calls[0].function.name",
            None,
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]},
            "messages[0].tool_calls[0].function.arguments",
            None,
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]},
            "messages[0].tool_calls[0].type",
            "unsupported_parameter",
        ),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "typ": "x"}]},
            "messages[0].tool_calls[0].typ",
            "unsupported_parameter",
        ),
        ({"role": "assistant", "content": "", "reasoning": 5}, "messages[0].reasoning", None),
        (
            {"role": "user", "content": "x", "reasoning": "y"},
            "messages[0].reasoning",
            "unsupported",
        ),
    ],
)
def test_what_is_wrong_in_a_history_is_named(message: Any, param: str, code: str | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed_chat(messages=[message])
    assert caught.value.param == param
    assert caught.value.code.startswith(code or "invalid_request")


def test_a_history_that_is_no_json_object_is_refused() -> None:
    with pytest.raises(ProtocolError, match="must be a JSON object"):
        parse(b"[]", ChatFields)
