"""Tools that a request offers, and what it says of calls, in the job that is made of it."""

from typing import Any

import pytest

from serve_app.api.requests.fields import TokenizeFields
from serve_app.api.requests.jobs import chat_job, tokenize_job
from serve_app.api.requests.parse import parse
from serve_app.config import RequestLimits
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Conversation
from serve_app.tenants.keyring import ANYBODY
from tests.api.requests.test_fields import parsed_chat

ANSWER = [{"role": "assistant", "content": "x"}]


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def chat(**fields: Any) -> Conversation:
    made = chat_job(parsed_chat(**fields), RequestLimits(), job="j", caller=ANYBODY)["chat"]
    assert made is not None
    return made


def test_a_template_sees_tools_in_one_order_and_without_what_is_not_for_it() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "default": None}}}
    given = {"strict": True, "parameters": schema, "description": "d", "name": "f"}
    told = chat(tools=[{"function": given, "type": "function"}, tool("g")])["tools"]
    none = {"type": "object", "properties": {}}
    assert told == [tool("f", description="d", parameters=schema), tool("g", parameters=none)]
    assert list(told[0]["function"]) == ["name", "description", "parameters"]


@pytest.mark.parametrize(
    ("fields", "forced", "single", "num_tools"),
    [
        ({}, None, False, 1),
        ({"tool_choice": "auto"}, None, False, 1),
        ({"tool_choice": None, "parallel_tool_calls": True}, None, False, 1),
        ({"parallel_tool_calls": False}, None, True, 1),
        ({"tool_choice": "none"}, None, False, 0),
        ({"tool_choice": "required"}, "", False, 1),
        ({"tool_choice": "required", "parallel_tool_calls": False}, "", True, 1),
        ({"tool_choice": tool("f")}, "f", True, 1),
    ],
)
def test_what_is_chosen_is_in_the_job(
    fields: dict[str, Any], forced: str | None, single: bool, num_tools: int
) -> None:
    made = chat(tools=[tool("f")], **fields)
    assert (made["forced"], made["single"], len(made["tools"])) == (forced, single, num_tools)


@pytest.mark.parametrize(
    ("call", "forced", "num_tools"),
    [(None, None, 1), ("auto", None, 1), ("none", None, 0), ({"name": "f"}, "f", 1)],
)
def test_functions_are_tools_of_which_one_is_called_at_most(
    call: Any, forced: str | None, num_tools: int
) -> None:
    made = chat(functions=[{"name": "f", "description": "d", "strict": True}], function_call=call)
    told = chat(tools=[tool("f", description="d", strict=True)], tool_choice="auto")
    assert made["tools"] == told["tools"][:num_tools]
    assert (made["forced"], made["single"], made["strict"]) == (forced, True, ["f"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "f g"}]}, "functions[0].name"),
        ({"functions": [{"name": "f"}, {"name": "f"}]}, "functions[1].name"),
        ({"functions": [{"name": f"f{number}"} for number in range(129)]}, "functions"),
        ({"functions": [{"name": "f"}], "tools": [tool("f")]}, "functions"),
        ({"functions": [{"name": "f"}], "tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
        ({"tools": [tool("f")], "function_call": {"name": "f"}}, "function_call"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [tool("f g")]}, "tools[0].function.name"),
        ({"tools": [tool("f", parameters="x")]}, "tools[0].function.parameters"),
        ({"tools": [tool("f", parameter={})]}, "tools[0].function.parameter"),
        ({"tools": [tool("f"), tool("f")]}, "tools[1].function.name"),
        ({"tools": {"f": 1}}, "tools"),
        ({"tools": [tool(f"f{number}") for number in range(129)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": tool("f")}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": tool("g")}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [tool("f")], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"continue_final_message": True, "add_generation_prompt": True, "messages": ANSWER},
            "continue_final_message",
        ),
    ],
)
def test_a_bad_tool_or_choice_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        chat(**fields)
    assert caught.value.code == "invalid_request"
    assert (caught.value.param or "").startswith(param)


@pytest.mark.parametrize(
    ("fields", "prompted", "continues"),
    [
        ({}, True, False),
        ({"add_generation_prompt": False}, False, False),
        ({"continue_final_message": True, "messages": ANSWER}, False, True),
    ],
)
def test_an_answer_begins_or_goes_on(
    fields: dict[str, Any], prompted: bool, continues: bool
) -> None:
    made = chat(**fields)
    assert (made["generation_prompt"], made["continues"]) == (prompted, continues)


def test_effort_is_what_templates_call_it_and_a_clients_own_variables_win() -> None:
    assert chat(reasoning_effort="high")["variables"] == {"reasoning_effort": "high"}
    off = {"enable_thinking": False, "thinking": False}
    assert chat(reasoning_effort="none")["variables"] == off
    own = {"enable_thinking": True}
    assert chat(reasoning_effort="none", chat_template_kwargs=own)["variables"] == {**off, **own}


def test_tokens_of_a_chat_are_counted_with_its_tools() -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [{"type":'
    fields = parse(body + b' "function", "function": {"name": "f"}}]}', TokenizeFields)
    made = tokenize_job(fields, ANYBODY)["chat"]
    assert made is not None
    assert [each["function"]["name"] for each in made["tools"]] == ["f"]


@pytest.mark.parametrize("choice", ["any", 5, [], {"type": "function", "name": "f"}])
def test_a_bad_choice_is_told_all_that_there_are(choice: Any) -> None:
    with pytest.raises(ProtocolError, match=r"'none', 'auto', 'required' or .*function"):
        chat(tools=[tool("f")], tool_choice=choice)
