"""Responses, whole and as events: by the client's types, and the same however the text is cut."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import loading, overloaded
from serve_app.protocol.messages import Alternative, Item, TokenItem
from tests.api.fakes import ACCEPTED, FakeClient, piece
from tests.api.responses.events import events_of, output_of, replayed, response_of

BEGUN = ["response.created", "response.in_progress"]
TEXT = ["output_text.delta", "output_text.done"]
ERROR = loading("it is going é")


def answered(*batches: list[Item], **fields: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        app = build_api(Api(FakeClient([ACCEPTED], *batches), RequestLimits(), clock=lambda: 5.9))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post("/v1/responses", json={"model": "m", "input": "hi", **fields})

    return asyncio.run(run())


def whole(*pieces: Item, **fields: Any) -> Any:
    response = answered(list(pieces), **fields)
    assert response.status_code == 200, response.text
    return response_of(response.json())


def streamed(*pieces: Item, **fields: Any) -> list[Any]:
    response = answered(*([each] for each in pieces), stream=True, **fields)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events_of(response.text)


def kinds(events: list[Any]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def delta(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    return {"index": index, "name": name, "arguments": arguments}


def token(text: str) -> TokenItem:
    top: Alternative = {"text": "z", "bytes": b"z", "logprob": float("-inf")}
    return {"text": text, "bytes": text.encode(), "logprob": -0.5, "top": [top], "offset": 0}


ALL: list[Item] = [
    piece("", reasoning="so ", num_reasoning=1, num_cached=2),
    piece("", reasoning="it is", num_reasoning=1),
    piece("", num_reasoning=1),
    piece('I "look"'),
    piece(" up\u2028."),
    piece("", calls=[delta(0, "", "f")]),
    piece("", calls=[delta(0, '{"a":')]),
    piece("", calls=[delta(0, " 1}"), delta(1, "{}", "g")]),
    piece("", "tool_calls", num_tokens=0),
]
"""Of an answer that has everything."""


def test_a_response_has_its_items_in_order_and_what_was_asked() -> None:
    got = whole(*ALL, instructions="be brief", max_output_tokens=99, metadata={"a": "b"})
    thought, said, first, second = got.output
    assert [each.text for each in thought.content] == ["so it is"]
    assert thought.summary == []
    assert (said.role, said.content[0].text) == ("assistant", 'I "look" up\u2028.')
    assert [(call.name, call.arguments) for call in (first, second)] == [
        ("f", '{"a": 1}'),
        ("g", "{}"),
    ]
    assert {item.status for item in got.output} == {"completed"}
    assert len({item.id for item in got.output}) == 4
    assert [len(call.call_id) for call in (first, second)] == [9, 9]
    assert (got.status, got.error, got.incomplete_details) == ("completed", None, None)
    assert (got.instructions, got.max_output_tokens, got.metadata) == ("be brief", 99, {"a": "b"})
    assert (got.model, got.created_at, got.service_tier) == ("m", 5, "default")
    assert got.output_text == said.content[0].text
    usage = got.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (3, 8, 11)
    assert usage.input_tokens_details.cached_tokens == 2
    assert usage.output_tokens_details.reasoning_tokens == 3


def test_events_come_in_the_order_in_which_clients_expect_them() -> None:
    assert kinds(streamed(*ALL)) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        "output_item.added",
        *("function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "output_item.added",
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]


def test_a_stream_joined_is_the_response_unstreamed() -> None:
    events, got = streamed(*ALL), whole(*ALL)
    last = events[-1].response
    assert [_without_id(item) for item in replayed(events)] == [
        _without_id(item) for item in output_of(got)
    ]
    assert replayed(events) == output_of(last)
    assert last.usage == got.usage
    assert events[0].response.output == []
    assert events[0].response.status == "in_progress"
    assert {event.response.id for event in (events[0], events[-1])} == {last.id}


def _without_id(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "id": None}


def test_pieces_that_have_several_things_give_the_same_items() -> None:
    together = piece(
        "said",
        "tool_calls",
        reasoning="so",
        calls=[delta(0, "{", "f"), delta(0, "}")],
    )
    apart = [
        piece("", reasoning="so"),
        piece("said"),
        piece("", calls=[delta(0, "{", "f")]),
        piece("", "tool_calls", calls=[delta(0, "}")]),
    ]
    expected = [_without_id(item) for item in output_of(whole(*apart))]
    assert [item["text"] for item in expected] == ["so", "said", "{}"]
    assert [_without_id(item) for item in output_of(whole(together))] == expected
    assert [_without_id(item) for item in replayed(streamed(together))] == expected


def test_what_ends_a_call_comes_before_what_follows_it() -> None:
    pieces = [
        piece("", calls=[delta(0, "{", "f")]),
        piece("and", "tool_calls", calls=[delta(0, "}")]),
    ]
    found = replayed(streamed(*pieces))
    assert [(item["type"], item["text"]) for item in found] == [
        ("function_call", "{}"),
        ("message", "and"),
    ]


def test_log_probabilities_are_of_the_text() -> None:
    include = ["message.output_text.logprobs"]
    pieces = [
        piece("", reasoning="so", tokens=[token("so")]),
        piece("", tokens=[token("é1")]),
        piece("é", tokens=[token("é2")]),
        piece("", "stop", tokens=[token("</s>")]),
    ]
    got = whole(*pieces, include=include, top_logprobs=1)
    [said] = got.output[1].content
    assert [each.token for each in said.logprobs] == ["é1", "é2", "</s>"]
    assert [each.logprob for each in said.logprobs] == [-0.5] * 3
    assert said.logprobs[0].top_logprobs[0].logprob == -9999
    events = streamed(*pieces, include=include, top_logprobs=1)
    assert replayed(events)[1]["tokens"] == ["é1", "é2", "</s>"]
    assert got.top_logprobs == 1


def test_an_answer_that_is_cut_is_incomplete_and_so_is_its_last_item() -> None:
    pieces = [piece("", reasoning="so"), piece("I lo", "length")]
    got, events = whole(*pieces), streamed(*pieces)
    for response in (got, events[-1].response):
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert [item.status for item in response.output] == ["completed", "incomplete"]
    assert events[-1].type == "response.incomplete"
    done = [event.item.status for event in events if event.type == "response.output_item.done"]
    assert done == ["completed", "incomplete"]


def test_an_answer_of_nothing_has_no_items() -> None:
    assert whole(piece("", "stop")).output == []
    assert kinds(streamed(piece("", "stop"))) == ["created", "in_progress", "completed"]


@pytest.mark.parametrize(
    ("error", "code", "failure"),
    [
        (ERROR, "loading", "server_error"),
        (overloaded("too much"), "server_overloaded", "rate_limit_exceeded"),
    ],
)
def test_an_error_midway_is_an_event_and_the_response_has_failed(
    error: Any, code: str, failure: str
) -> None:
    events = streamed(piece("I lo"), error.to_item())
    assert kinds(events)[-3:] == ["output_text.delta", "error", "failed"]
    told, failed = events[-2], events[-1].response
    assert (told.code, told.message) == (code, error.message)
    assert (failed.status, failed.error.code) == ("failed", failure)
    assert failed.error.message == error.message
    [item] = failed.output
    assert (item.status, item.content[0].text) == ("incomplete", "I lo")


def test_a_stream_that_just_ends_has_failed() -> None:
    events = streamed(piece("I lo"))
    assert kinds(events)[-2:] == ["error", "failed"]
    assert events[-2].code == "internal_error"


def test_a_response_that_is_not_streamed_fails_with_a_status() -> None:
    response = answered([piece("I lo"), ERROR.to_item()])
    assert (response.status_code, response.json()["error"]["code"]) == (503, "loading")


def test_nothing_is_stored_whatever_was_asked() -> None:
    for fields in ({}, {"store": True}, {"store": False}):
        assert answered([piece("x", "stop")], **fields).json()["store"] is False


def test_a_request_is_repeated_as_it_was_understood() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    named = {"type": "function", "name": "f"}
    form = {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [named]}
    got = whole(
        piece("x", "stop"),
        tools=[tool],
        tool_choice=named,
        parallel_tool_calls=False,
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "low", "format": form},
        truncation="auto",
        temperature=0.5,
        user="u",
    )
    assert json.loads(got.tools[0].model_dump_json(exclude_unset=True)) == {
        **tool,
        "description": None,
    }
    assert got.tool_choice.name == "f"
    assert (got.parallel_tool_calls, got.temperature, got.user) == (False, 0.5, "u")
    assert (got.reasoning.effort, got.reasoning.summary) == ("low", None)
    assert got.text.verbosity == "low"
    assert got.text.format.model_dump(by_alias=True, exclude_unset=True) == form
    assert got.truncation == "disabled"
    assert whole(piece("x", "stop"), tools=[tool], tool_choice=allowed).tool_choice.mode == "auto"
    assert whole(piece("x", "stop")).tool_choice == "auto"
