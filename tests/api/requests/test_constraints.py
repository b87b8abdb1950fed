"""What clients may want an answer to obey, and what a job has of it."""

import json
from typing import Any

import pytest

from serve_app.api.requests.fields import ChatFields, CompletionFields
from serve_app.api.requests.jobs import chat_job, completion_job
from serve_app.api.requests.parse import parse
from serve_app.config import RequestLimits
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Job
from serve_app.tenants.keyring import ANYBODY

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
USER = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> Job:
    body = json.dumps({"model": "m", "messages": USER, **fields}).encode()
    return chat_job(parse(body, ChatFields), RequestLimits(), job="j", caller=ANYBODY)


def completion(**fields: Any) -> Job:
    body = json.dumps({"model": "m", "prompt": "x", **fields}).encode()
    return completion_job(parse(body, CompletionFields), RequestLimits(), job="j", caller=ANYBODY)


def schema_format(**given: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, **given}}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        (schema_format(), SCHEMA),
        (schema_format(strict=False), SCHEMA),
        (schema_format(strict=True, description="d"), SCHEMA),
    ],
)
def test_a_response_format_is_a_schema_strict_or_not(given: Any, value: Any) -> None:
    expected = {"kind": "json", "value": value, "param": "response_format"}
    assert chat(response_format=given)["constraint"] == expected


def test_text_is_no_constraint_and_neither_is_nothing() -> None:
    assert chat(response_format={"type": "text"})["constraint"] is None
    assert chat()["constraint"] is None
    assert completion(structured_outputs=None)["constraint"] is None


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        ({"json": SCHEMA}, "json", SCHEMA),
        ({"json": '{"type": "null"}'}, "json", {"type": "null"}),
        ({"json": True}, "json", True),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["a", "b"]}, "choice", ["a", "b"]),
        ({"grammar": "start: x"}, "grammar", "start: x"),
    ],
)
def test_structured_outputs_are_the_same_for_completions_and_chats(
    given: Any, kind: str, value: Any
) -> None:
    (name,) = given
    expected = {"kind": kind, "value": value, "param": f"structured_outputs.{name}"}
    assert completion(structured_outputs=given)["constraint"] == expected
    both = chat(structured_outputs=given, response_format={"type": "text"})
    assert both["constraint"] == expected


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "goes with the type"),
        ({"response_format": {**schema_format(), "type": "text"}}, "response_format", "goes with"),
        ({"response_format": schema_format(schema=5)}, "response_format.json_schema.schema", ""),
        ({"response_format": schema_format(scheme={})}, "response_format.json_schema.scheme", ""),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "no JSON"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice[0]", "at least 1"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp", ""),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "not both",
        ),
        (
            {
                "response_format": {"type": "json_object"},
                "continue_final_message": True,
                "messages": [*USER, {"role": "assistant", "content": "{"}],
            },
            "response_format",
            "a last message that is continued",
        ),
        ({"guided_json": SCHEMA}, "guided_json", "use 'structured_outputs'"),
    ],
)
def test_what_does_not_say_one_thing_is_refused(
    fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert words in caught.value.message


def test_a_job_names_the_functions_that_are_strict() -> None:
    tools = [
        {"type": "function", "function": {"name": "a", "strict": True}},
        {"type": "function", "function": {"name": "b", "strict": False}},
        {"type": "function", "function": {"name": "c"}},
    ]
    made = chat(tools=tools)["chat"]
    assert made is not None
    assert made["strict"] == ["a"]
