"""A history reaches a chat template in the form that the template was written for."""

from typing import Any

import pytest

from serve_app.protocol.messages import Conversation
from serve_app.text.answers.finding import known_formats
from serve_app.text.chat_prompt import ChatPrompt
from serve_app.text.chat_template import ChatTemplate

USER: dict[str, Any] = {"role": "user", "content": "hi"}


def _call(name: str, call_id: str | None) -> dict[str, Any]:
    function = {"name": name, "arguments": '{"a": 1}'}
    made = {"type": "function", "function": function}
    return made if call_id is None else {"id": call_id, **made}


def _answer(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "5"}


def _given(form: str, template: str, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    chat: Conversation = {
        "messages": [USER, *messages],
        "tools": [],
        "strict": [],
        "forced": None,
        "single": False,
        "variables": {},
        "generation_prompt": True,
        "continues": False,
    }
    return ChatPrompt("m", chat, ChatTemplate(template, {}), known_formats()[form]).messages()


def test_ids_of_calls_are_as_the_format_has_them_in_calls_and_in_their_answers() -> None:
    first = {"role": "assistant", "tool_calls": [_call("run", "x"), _call("get", "y")]}
    second = {"role": "assistant", "tool_calls": [_call("run", None)]}
    given = _given("kimi_k2", "", first, _answer("y"), _answer("x"), _answer("z"), second)
    calls = [[call["id"] for call in message.get("tool_calls", ())] for message in given]
    assert calls[1] == ["functions.run:0", "functions.get:1"]
    assert calls[-1] == ["functions.run:2"]
    answers = [message["tool_call_id"] for message in given if message["role"] == "tool"]
    assert answers == ["functions.get:1", "functions.run:0", "z"]


def test_ids_of_calls_stay_where_the_format_says_nothing() -> None:
    said = {"role": "assistant", "tool_calls": [_call("run", "x")]}
    assert _given("hermes", "", said)[1]["tool_calls"][0]["id"] == "x"


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("{{ tool['function']['arguments'] + '<｜tool▁call▁end｜>' }}", '{"a": 1}'),
        ("{{ tool['function']['arguments'] | tojson + '<｜tool▁call▁end｜>' }}", {"a": 1}),
        ("{{ tool.function.arguments|tojson }}", {"a": 1}),
    ],
)
def test_arguments_are_texts_unless_the_template_itself_writes_them_as_json(
    template: str, arguments: object
) -> None:
    said = {"role": "assistant", "tool_calls": [_call("run", "x")]}
    given = _given("deepseek_v31", template, said)
    assert given[1]["tool_calls"][0]["function"]["arguments"] == arguments
