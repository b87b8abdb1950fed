"""What a request for a message asks of the chat that it stands for, and what it is refused for."""

import json
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from serve_app.api.anthropic.as_chats import OWN_WORDS, count_job, message_job
from serve_app.api.anthropic.message_fields import CountFields, MessageFields
from serve_app.api.requests.fields import ChatFields
from serve_app.api.requests.jobs import chat_job
from serve_app.api.requests.own_words import in_own_words
from serve_app.api.requests.parse import parse
from serve_app.config import RequestLimits
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Job
from serve_app.service_class import ServiceClass
from serve_app.tenants.keyring import ANYBODY

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "run", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "run", "input": {"ä": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1"}
ASKED = [USER, {"role": "assistant", "content": [USE]}]


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "a", "max_tokens": 9, "messages": [USER], **fields}


def job_of(**fields: Any) -> Job:
    parsed = parse(json.dumps(body(**fields)).encode(), MessageFields)
    return message_job(parsed, RequestLimits(), job="msg_1", caller=ANYBODY, timeout_s=3)


def chat_of(**fields: Any) -> Any:
    return job_of(**fields)["chat"]


def refusal(**fields: Any) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        job_of(**fields)
    return in_own_words(caught.value, OWN_WORDS)


def test_the_job_is_the_one_that_a_chat_makes() -> None:
    ours = job_of(
        system="be brief",
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["x"],
        stream=True,
        metadata={"user_id": "u1"},
        service_tier="standard_only",
        tools=[TOOL],
    )
    chat = {
        "model": "a",
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "be brief"}, USER],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "stop": ["x"],
        "stream": True,
        "user": "u1",
        "service_tier": "default",
        "tools": [
            {"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}
        ],
        "seed": ours["seed"],
    }
    fields = parse(json.dumps(chat).encode(), ChatFields)
    same = chat_job(fields, RequestLimits(), job="msg_1", caller=ANYBODY, timeout_s=3)
    assert ours == same
    assert ours["service_class"] is ServiceClass.STANDARD


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ("be brief", ["be brief"]),
        ([text("be brief", cache_control={"type": "ephemeral"}), text("or not")],
         ["be brief\nor not"]),
        ("", []),
        ([], []),
        (None, []),
    ],
)  # fmt: skip
def test_a_system_is_the_first_message(system: object, told: list[str]) -> None:
    messages = chat_of(system=system)["messages"]
    assert messages == [*({"role": "system", "content": each} for each in told), USER]


@pytest.mark.parametrize(
    ("messages", "known"),
    [
        ([{"role": "user", "content": [text("a"), text("b", citations=None)]}],
         [{"role": "user", "content": "a\nb"}]),
        ([USER, {"role": "user", "content": "there"}], [{"role": "user", "content": "hi\nthere"}]),
        ([{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
        ([USER, {"role": "system", "content": "now be brief"}],
         [USER, {"role": "system", "content": "now be brief"}]),
        (
            [USER,
             {"role": "assistant", "content": [
                 {"type": "thinking", "thinking": "so", "signature": "x"},
                 {"type": "redacted_thinking", "data": "?"},
                 text("I run."), USE]},
             {"role": "user", "content": [
                 {**RESULT, "content": [text("5"), text("6")]}, text("go on")]}],
            [USER,
             {"role": "assistant", "content": "I run.", "reasoning_content": "so", "tool_calls": [
                 {"id": "t1", "type": "function",
                  "function": {"name": "run", "arguments": '{"ä": 1}'}}]},
             {"role": "tool", "tool_call_id": "t1", "name": "run", "content": "5\n6"},
             {"role": "user", "content": "go on"}],
        ),
    ],
)  # fmt: skip
def test_blocks_become_the_messages_of_a_chat(messages: Any, known: Any) -> None:
    assert chat_of(messages=messages)["messages"] == known


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({}, ""),
        ({"content": None, "is_error": None}, ""),
        ({"content": "5", "is_error": False}, "5"),
        ({"content": "no disk", "is_error": True}, "Error: no disk"),
    ],
)
def test_the_model_is_told_that_a_tool_has_failed(result: Any, told: str) -> None:
    messages = [*ASKED, {"role": "user", "content": [{**RESULT, **result}]}]
    assert chat_of(messages=messages)["messages"][-1]["content"] == told


def test_an_answer_goes_on_where_the_last_message_is_an_assistants() -> None:
    chat = chat_of(messages=[USER, {"role": "assistant", "content": "The answer"}])
    assert chat["continues"]
    assert not chat["generation_prompt"]
    assert not chat_of()["continues"]


@pytest.mark.parametrize(
    ("choice", "forced", "single", "offered"),
    [
        (None, None, False, 1),
        ({"type": "auto"}, None, False, 1),
        ({"type": "auto", "disable_parallel_tool_use": True}, None, True, 1),
        ({"type": "any"}, "", False, 1),
        ({"type": "any", "disable_parallel_tool_use": True}, "", True, 1),
        ({"type": "tool", "name": "run"}, "run", True, 1),
        ({"type": "none"}, None, False, 0),
    ],
)
def test_a_choice_of_tools_is_a_chats(choice: Any, forced: str, single: bool, offered: int) -> None:
    chat = chat_of(tools=[TOOL], tool_choice=choice)
    assert (chat["forced"], chat["single"], len(chat["tools"])) == (forced, single, offered)


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"thinking": None}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, True),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"chat_template_kwargs": {"thinking": True}, "thinking": {"type": "disabled"}},
         {"enable_thinking": False, "thinking": True}),
    ],
)  # fmt: skip
def test_templates_are_told_whether_to_reason(fields: Any, variables: Any) -> None:
    if isinstance(variables, bool):
        variables = {"enable_thinking": variables, "thinking": variables}
    assert chat_of(**fields)["variables"] == variables


def test_a_format_is_what_the_answer_obeys() -> None:
    asked = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    constraint = job_of(output_config=asked)["constraint"]
    assert constraint == {
        "kind": "json",
        "value": {"type": "object"},
        "param": "response_format",
    }
    assert job_of()["constraint"] is None
    prefilled = [USER, {"role": "assistant", "content": "x"}]
    error = refusal(output_config=asked, messages=prefilled)
    param = "output_config.format"
    assert error.param == param
    assert error.message == f"'{param}' does not go with a last message that is continued"
    assert refusal(output_config={"format": {"type": "text"}}).param == f"{param}.type"


def test_a_strict_tool_is_a_chats() -> None:
    assert chat_of(tools=[{**TOOL, "strict": True}])["strict"] == ["run"]
    assert chat_of(tools=[TOOL])["strict"] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_control": {"type": "ephemeral"}},
        {"tools": [{**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}}]},
        {"tools": [{**TOOL, "eager_input_streaming": True, "allowed_callers": ["direct"]}]},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"speed": "fast", "inference_geo": "eu", "user_profile_id": "x", "diagnostics": {}},
        {"container": None, "mcp_servers": []},
    ],
)
def test_what_changes_nothing_here_is_accepted(fields: dict[str, Any]) -> None:
    plain = job_of(**({"tools": [TOOL]} if "tools" in fields else {}))
    assert {**job_of(**fields), "seed": 0} == {**plain, "seed": 0}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_token": 4}, "max_token", "max_token"),
        ({"max_tokens": None}, "max_tokens", "valid integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"messages": []}, "messages", "non-empty"),
        ({"messages": [{"role": [], "content": ""}]}, "messages[0].role", "must be one of"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing"),
        ({"messages": [{**USER, "nam": "x"}]}, "messages[0].nam", "not supported"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "blocks"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
         "messages[0].content[0]", "'image' are not supported here: text models are served"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]},
         "messages[0].content[0]", "'document'"),
        ({"messages": [{"role": "user", "content": [text("x", txt="y")]}]},
         "messages[0].content[0].txt", "not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text", "Missing"),
        ({"messages": [{"role": "user", "content": [RESULT]}]},
         "messages[0].content[0].tool_use_id", "'t1'"),
        ({"messages": [*ASKED, {"role": "user", "content": [{**RESULT, "is_error": 1}]}]},
         "messages[2].content[0].is_error", "true or false"),
        ({"messages": [*ASKED, {"role": "user", "content": [
            {**RESULT, "content": [{"type": "image"}]}]}]},
         "messages[2].content[0].content[0]", "'image'"),
        ({"messages": [USER, {"role": "assistant", "content": [{**USE, "input": "{}"}]}]},
         "messages[1].content[0].input", "object"),
        ({"messages": ASKED}, "messages[1]", "tool_result"),
        ({"system": [{"type": "image"}]}, "system[0]", "'image'"),
        ({"system": 5}, "system", "a string"),
        ({"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]},
         "tools[1]", "web_search_20250305"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name", "another"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading", "False"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "'tools'"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice", "'name'"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice", "'x'"),
        ({"stop_sequences": [""]}, "stop_sequences[0]", "at least 1"),
        ({"stop_sequences": ["x"] * 5}, "stop_sequences", "above the limit of 4"),
        ({"stop_sequences": ["x" * 300]}, "stop_sequences[0]", "above the limit of 256"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type", "adaptive"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
         "context_management.edits[0].type", "clear_thinking"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers", "not supported"),
        ({"service_tier": "priority"}, "service_tier", "standard_only"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_its_own_name(fields: Any, param: str, says: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert says in error.message


def test_counting_takes_what_a_prompt_is_made_of_and_makes_the_same_of_it() -> None:
    fields: Any = {
        "model": "a",
        "system": "be brief",
        "messages": [USER, {"role": "assistant", "content": "The"}],
        "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "run"},
        "thinking": {"type": "disabled"},
    }
    counted = count_job(parse(json.dumps(fields).encode(), CountFields), RequestLimits(), ANYBODY)
    assert counted["chat"] == chat_of(**fields)
    with pytest.raises(ProtocolError) as caught:
        parse(json.dumps({**fields, "max_tokens": 5}).encode(), CountFields)
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "system", "content": [text("x")]}],
        [*ASKED, {"role": "user", "content": [{**RESULT, "content": None}, text("x")]}],
        [*ASKED, {"role": "user", "content": [{**RESULT, "content": [text("x")]}]}],
        [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}],
    ],
)
def test_what_the_document_allows_in_messages_is_what_is_read(messages: Any) -> None:
    schema = TypeAdapter(MessageFields).json_schema()
    jsonschema.validate(body(messages=messages), schema)
    job_of(messages=messages)
    for wrong in (
        [],
        [{"role": "tool", "content": "x"}],
        [{"role": "user", "content": [{"type": "image"}]}],
        [{"role": "user", "content": [USE]}],
        [{**USER, "name": "x"}],
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body(messages=wrong), schema)
        refusal(messages=wrong)
