"""The OpenAPI document: whole, and made of what is there. That it is true: `tests/serving`."""

import json
import re
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from serve_app.api.openapi import answer_shapes, response_shapes
from serve_app.api.requests.fields import ChatFields, CompletionFields
from serve_app.api.requests.parse import parse
from serve_app.api.responses.response_fields import ResponseFields
from serve_app.api.statuses import OPENAI
from serve_app.protocol.errors import CODES
from tests.api.fakes import FakeClient
from tests.api.held_keys import HeldKeys
from tests.api.test_access import ANSWER, BODY, KEYS, all_routes, call, shown

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}
FUNCTION_TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
ALLOWED = {
    "type": "allowed_tools",
    "mode": "auto",
    "tools": [{"type": "function", "name": "f"}],
}
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "so"}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "y", "annotations": []}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "5"},
]
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
HISTORY = [
    {"role": "developer", "content": "be brief"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "so"},
    {"role": "tool", "content": "5", "tool_call_id": "x"},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "function", "content": "5", "name": "f"},
    {"role": "assistant", "reasoning_content": "so"},
]


def _document(keys: HeldKeys | None = None, *, has_docs: bool = False) -> Any:
    [answer] = call(keys, ("GET", "/openapi.json", shown("infer")), has_docs=has_docs)
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize("has_docs", [False, True])
def test_every_route_is_in_the_document_and_no_other(has_docs: bool) -> None:
    """The page for people is no part of the API, where there is one and where there is none."""
    paths = _document(has_docs=has_docs)["paths"]
    told = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {(method, re.sub("{[^}]*}", "x", path)) for method, path in told} == set(all_routes())


def test_every_reference_leads_somewhere() -> None:
    document = _document()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert named <= set(document["components"]["schemas"])


def test_a_generation_names_every_error_there_is() -> None:
    answers = _document(HeldKeys(KEYS))["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(answers) == {"200", *(str(OPENAI.statuses[code].number) for code in CODES)}
    assert answers["429"]["headers"]["retry-after"]["required"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}


@pytest.mark.parametrize(
    ("path", "asked", "whole", "chunk"),
    [
        ("completions", BODY, answer_shapes.Completion, answer_shapes.CompletionChunk),
        (
            "chat/completions",
            {"model": BODY["model"], "messages": [{"role": "user", "content": "hi"}]},
            answer_shapes.ChatCompletion,
            answer_shapes.ChatCompletionChunk,
        ),
        (
            "responses",
            {"model": BODY["model"], "input": "hi", "tools": [FUNCTION_TOOL]},
            response_shapes.Response,
            response_shapes.ResponseEvent,
        ),
    ],
)
def test_answers_and_chunks_have_the_fields_of_the_document_and_no_other(
    path: str, asked: dict[str, Any], whole: type[BaseModel], chunk: type[BaseModel]
) -> None:
    def answer(stream: bool) -> Any:
        options = shown("infer", json={**asked, "stream": stream})
        [found] = call(None, ("POST", f"/v1/{path}", options), client=FakeClient(*ANSWER))
        assert found.status_code == 200
        return found

    whole.model_validate(answer(False).json())
    events = [line[6:] for line in answer(True).text.splitlines() if line.startswith("data: {")]
    assert events
    for event in events:
        chunk.model_validate_json(event)


def test_keys_are_in_the_document_where_they_are_needed() -> None:
    document = _document(HeldKeys(KEYS))
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert {} in document["paths"]["/health"]["get"]["security"]
    assert {} not in document["paths"]["/v1/models"]["get"]["security"]
    without = _document()
    assert without["components"]["securitySchemes"] == {}
    assert "security" not in without["paths"]["/v1/models"]["get"]
    assert not {"401", "403"} & set(without["paths"]["/v1/models"]["get"]["responses"])


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (CompletionFields, {"prompt": "x"}),
        (CompletionFields, {"prompt": ["x", "y"], "stop": "a", "logit_bias": {"7": -1}}),
        (CompletionFields, {"prompt": [1, 2], "stop": ["a"], "stop_token_ids": [3]}),
        (CompletionFields, {"prompt": [[1], [2, 3]], "n": 2}),
        (ChatFields, {"messages": [{"role": "user", "content": "x", "name": None}]}),
        (ChatFields, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
        (ChatFields, {"messages": HISTORY, "tools": [TOOL], "tool_choice": "required"}),
        (ChatFields, {"messages": HISTORY, "tools": [TOOL], "tool_choice": NAMED}),
        (ResponseFields, {"input": "hi", "text": {"format": {"type": "text"}}}),
        (ResponseFields, {"input": ITEMS, "tools": [FUNCTION_TOOL], "tool_choice": ALLOWED}),
    ],
)
def test_what_the_document_allows_is_what_is_parsed(schema: Any, fields: dict[str, Any]) -> None:
    schemas = _document()["components"]["schemas"]
    whole = {"$ref": f"#/components/schemas/{schema.__name__}", "components": {"schemas": schemas}}
    good: dict[str, Any] = {"model": "a", **fields}
    jsonschema.validate(good, whole)
    parse(json.dumps(good).encode(), schema)
    for bad in ({**good, "n": 0}, {**good, "max_token": 3}, {**good, "stop": [1]}, fields):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, whole)
