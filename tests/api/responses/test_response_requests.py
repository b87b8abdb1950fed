"""A request for a response is the job of the chat that it stands for, or is refused by name."""

import json
from typing import Any

import pytest

from serve_app.api.requests.fields import ChatFields
from serve_app.api.requests.jobs import chat_job
from serve_app.api.requests.own_words import in_own_words
from serve_app.api.requests.parse import parse
from serve_app.api.responses.response_job import OWN_WORDS
from serve_app.config import RequestLimits
from serve_app.protocol.errors import ProtocolError, bad_request
from serve_app.tenants.keyring import ANYBODY
from tests.api.responses.asking import asked, job_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = [
    {"type": "function", "name": "f", "description": "does", "parameters": SCHEMA, "strict": True},
    {"type": "function", "name": "g", "parameters": None},
]
CHAT_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "description": "does",
            "parameters": SCHEMA,
            "strict": True,
        },
    },
    {"type": "function", "function": {"name": "g"}},
]
CHAT_FORM = {"name": "s", "schema": SCHEMA, "strict": True}
FORM = {"type": "json_schema", **CHAT_FORM}
NAMED = {"type": "function", "name": "g"}
SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "min_p": 0.1,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "repetition_penalty": 1.5,
    "logit_bias": {"7": 1.5},
    "seed": 7,
    "stop": "end",
    "stop_token_ids": [3],
    "min_tokens": 2,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "priority": 4,
    "service_tier": "flex",
    "user": "u",
    "chat_template_kwargs": {"mood": "!"},
    "stream": True,
}
HI = [{"role": "user", "content": "hi"}]


def own(error: ProtocolError) -> ProtocolError:
    return in_own_words(error, OWN_WORDS)


def _chat(**fields: Any) -> Any:
    body = json.dumps({"model": "m", "messages": HI, "seed": 7, **fields}).encode()
    return chat_job(parse(body, ChatFields), RequestLimits(), job="resp_1", caller=ANYBODY)


@pytest.mark.parametrize(
    ("response", "chat"),
    [
        ({}, {}),
        (SAMPLING, SAMPLING),
        ({"max_output_tokens": 9}, {"max_tokens": 9}),
        (
            {"instructions": "be brief"},
            {"messages": [{"role": "system", "content": "be brief"}, *HI]},
        ),
        ({"tools": TOOLS}, {"tools": CHAT_TOOLS}),
        ({"tools": []}, {}),
        (
            {"tools": TOOLS, "tool_choice": "required"},
            {"tools": CHAT_TOOLS, "tool_choice": "required"},
        ),
        ({"tools": TOOLS, "tool_choice": "none"}, {"tools": CHAT_TOOLS, "tool_choice": "none"}),
        (
            {"tools": TOOLS, "tool_choice": NAMED},
            {"tools": CHAT_TOOLS, "tool_choice": CHAT_TOOLS[1]},
        ),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [NAMED]},
            },
            {"tools": CHAT_TOOLS[1:], "tool_choice": "required"},
        ),
        (
            {"tools": TOOLS, "parallel_tool_calls": False},
            {"tools": CHAT_TOOLS, "parallel_tool_calls": False},
        ),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "none"}}, {"reasoning_effort": "none"}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        ({"structured_outputs": {"regex": "a"}}, {"structured_outputs": {"regex": "a"}}),
        ({"reasoning": {"effort": "max"}}, {"reasoning_effort": "max"}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"top_logprobs": 0}, {}),
        (
            {
                "store": True,
                "metadata": {"a": "b"},
                "truncation": "auto",
                "prompt_cache_key": "k",
                "safety_identifier": "s",
                "prompt_cache_retention": "24h",
                "include": ["reasoning.encrypted_content"],
                "text": {"format": {"type": "text"}, "verbosity": "low"},
                "stream_options": None,
                "background": False,
                "previous_response_id": None,
                "conversation": None,
                "prompt": None,
                "max_tool_calls": 3,
            },
            {},
        ),
    ],
)
def test_the_job_is_that_of_the_chat(response: dict[str, Any], chat: dict[str, Any]) -> None:
    assert job_of(**{"seed": 7, **response}) == _chat(**chat)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not stored"),
        ({"conversation": "conv_1"}, "conversation", "not stored"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "whole conversation"),
        ({"background": True}, "background", "not stored"),
        ({"prompt": {"id": "p"}}, "prompt", "'input' or 'instructions'"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search' is not supported"),
        ({"tools": [*TOOLS, {"type": "mcp"}]}, "tools[2].type", "'mcp' is not supported"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].name", "another function 'f'"),
        ({"tools": [{**NAMED, "nmae": "x"}]}, "tools[0].nmae", "Extra inputs"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "web_search"}},
            "tool_choice.type",
            "'web_search'",
        ),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "'auto', 'required'"),
        ({"tools": TOOLS, "tool_choice": {**NAMED, "name": "h"}}, "tool_choice", "called 'h'"),
        ({"tool_choice": "required"}, "tool_choice", "when 'tools' are given"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format", "'schema'"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type", "Input should be"),
        (
            {"text": {"format": FORM}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
            "not both",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"max_tokens": 5}, "max_tokens", "Unrecognized"),
        ({"messages": HI}, "messages", "Unrecognized"),
        ({"n": 2}, "n", "Unrecognized"),
        ({"temprature": 1}, "temprature", "Unrecognized"),
        ({"reasoning": {"efort": "low"}}, "reasoning.efort", "Extra inputs"),
        ({"include": ["message.logprobs"]}, "include[0]", "Input should be"),
        ({"metadata": {"a": 1}}, "metadata.a", "valid string"),
        ({"truncation": "most"}, "truncation", "Input should be"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", "'stream' is true"),
        (
            {"stream": True, "stream_options": {"include_usage": True}},
            "stream_options.include_usage",
            "Extra",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(ProtocolError, match=says) as caught:
        job_of(**fields)
    assert caught.value.param == param


def test_a_schema_is_that_of_the_chat_and_called_by_its_own_name() -> None:
    form = {"type": "json_schema", "json_schema": CHAT_FORM}
    job = job_of(seed=7, text={"format": FORM})
    assert job == _chat(response_format=form)
    told = own(bad_request("Invalid 'response_format': no", "response_format"))
    assert (told.param, told.message) == ("text.format", "Invalid 'text.format': no")


def test_limits_are_those_of_chats() -> None:
    with pytest.raises(ProtocolError) as caught:
        job_of(RequestLimits(messages=1), instructions="be brief")
    told = own(caught.value)
    assert (told.param, told.message) == ("input", "Invalid 'input': 2 is above the limit of 1")
    with pytest.raises(ProtocolError) as caught:
        job_of(RequestLimits(logprobs=2), top_logprobs=3)
    assert caught.value.param == "top_logprobs"


def test_refusals_of_the_chat_name_what_the_client_has_sent() -> None:
    told = own(bad_request("Invalid 'max_tokens': 9, as max_tokens is", "max_tokens"))
    assert told.param == "max_output_tokens"
    assert told.message == "Invalid 'max_output_tokens': 9, as max_tokens is"
    nested = own(bad_request("9 in the messages of 'messages[3]'", "messages[3].content"))
    assert nested.param == "input[3].content"
    assert nested.message == "9 in the input of 'input[3]'"
    twin = own(bad_request("Invalid 'tools[1].function.name': x", "tools[1].function.name"))
    assert (twin.param, twin.message) == ("tools[1].name", "Invalid 'tools[1].name': x")
    for other in (bad_request("x 'messages'", "model"), bad_request("x 'messages'")):
        assert own(other).message == other.message
        assert own(other).param == other.param


def test_padding_of_streams_may_be_declined() -> None:
    assert asked(stream=True, stream_options={"include_obfuscation": False}).stream
