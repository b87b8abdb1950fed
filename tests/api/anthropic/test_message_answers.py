"""Messages whole and streamed, each read strictly by the types of Anthropic's own client."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, MessageTokensCount, ModelInfo, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from serve_app.api.answers.answer import Choice, Head, Usage
from serve_app.api.anthropic.answer_blocks import SIGNATURE
from serve_app.api.anthropic.message_answers import MessageFormat
from serve_app.api.anthropic.tool_input import input_of
from serve_app.api.openapi import message_shapes
from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import loading
from serve_app.protocol.messages import Item, Job
from tests.api.fakes import ACCEPTED, FakeClient, piece
from tests.api.test_access import Listing

BODY = {"model": "a", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
OUR_EVENTS = TypeAdapter(message_shapes.MessageEvent)


def call(index: int, name: str | None, arguments: str = "") -> dict[str, Any]:
    return {"index": index, "name": name, "arguments": arguments}


ALL: list[Item] = [
    piece("", reasoning="I th"),
    piece("", reasoning="ink.", num_cached=2),
    piece("Well: "),
    piece("I run.", calls=[call(0, "run"), call(0, None, '{"a"')]),
    piece("", calls=[call(0, None, ": 1}")]),
    piece("Then", calls=[call(1, "get_weather"), call(1, None, '{"city": "Par')]),
    piece("", "tool_calls", calls=[call(1, None, 'is"}')]),
]


def respond(method: str, path: str, client: FakeClient, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        app = build_api(Api(client, RequestLimits(), clock=lambda: 5.0))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, **options)

    return asyncio.run(run())


def events_of(items: Sequence[Item], **fields: Any) -> list[Any]:
    """The data of each event, whose name must be its type. Read strictly, by both."""
    client = FakeClient([ACCEPTED], items)
    response = respond("POST", "/v1/messages", client, json={**BODY, "stream": True, **fields})
    assert response.headers["content-type"].startswith("text/event-stream")
    return data_of(response.text)


def data_of(stream: str) -> list[Any]:
    found = []
    for event in stream.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        told = json.loads(data.removeprefix("data: "))
        assert name == f"event: {told['type']}"
        if told["type"] == "ping":
            OUR_EVENTS.validate_python(told, strict=True)
        elif told["type"] != "error":
            EVENTS.validate_json(data.removeprefix("data: "), strict=True)
            OUR_EVENTS.validate_python(told, strict=True)
        found.append(told)
    return found


def streamed(items: Sequence[Item], **fields: Any) -> Any:
    return _read(events_of(items, **fields))


def _read(events: list[Any]) -> Any:
    """The message that Anthropic's client makes of a stream."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        read = EVENTS.validate_python(event)
        snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=buffers)
    message = snapshot.to_dict()
    assert message.pop("stop_details") is None
    return message


def whole(items: Sequence[Item], **fields: Any) -> Any:
    response = respond(
        "POST", "/v1/messages", FakeClient([ACCEPTED], items), json={**BODY, **fields}
    )  # fmt: skip
    assert response.status_code == 200
    Message.model_validate(response.json(), strict=True)
    message_shapes.Message.model_validate(response.json(), strict=True)
    return response.json()


def _without_id(message: dict[str, Any]) -> dict[str, Any]:
    """Ids of calls are made of the request's."""
    content = [{**block, "id": None} for block in message["content"]]
    return {**message, "id": None, "content": content}


def test_a_message_has_its_blocks_in_order() -> None:
    message = whole(ALL)
    assert message["id"].startswith("msg_")
    assert [block["type"] for block in message["content"]] == [
        *("thinking", "text", "tool_use", "text", "tool_use"),
    ]
    thinking, text, first, between, second = message["content"]
    assert thinking == {"type": "thinking", "thinking": "I think.", "signature": SIGNATURE}
    assert text == {"type": "text", "text": "Well: I run."}
    assert (first["name"], first["input"]) == ("run", {"a": 1})
    assert between["text"] == "Then"
    assert (second["name"], second["input"]) == ("get_weather", {"city": "Paris"})
    assert first["id"] != second["id"]
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
    assert message["usage"] == {
        "input_tokens": 1,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 2,
        "output_tokens": 7,
        "service_tier": "standard",
    }


def test_a_stream_is_read_as_the_message_unstreamed() -> None:
    assert _without_id(streamed(ALL)) == _without_id(whole(ALL))


def test_a_stream_has_the_events_of_the_protocol_in_order() -> None:
    events = events_of([piece("a"), piece("b"), piece("", "stop")])
    assert [event["type"] for event in events] == [
        *("message_start", "content_block_start"),
        *("content_block_delta", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    start, last = events[0]["message"], events[-2]
    assert (start["content"], start["stop_reason"], start["model"]) == ([], None, "a")
    assert start["usage"]["input_tokens"] == 3
    assert last["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == 3


def test_a_signature_ends_each_block_of_thinking() -> None:
    items = [piece("", reasoning="x"), piece("a"), piece("", "stop", reasoning="y")]
    events = events_of(items)
    ends = [at for at, event in enumerate(events) if event["type"] == "content_block_stop"]
    for end in (ends[0], ends[2]):
        delta = {"type": "signature_delta", "signature": SIGNATURE}
        assert events[end - 1]["delta"] == delta


def test_thinking_that_is_omitted_leaves_an_empty_block() -> None:
    fields = {"thinking": {"type": "adaptive", "display": "omitted"}}
    assert whole(ALL, **fields)["content"][0]["thinking"] == ""
    assert "I th" not in json.dumps(events_of(ALL, **fields))
    assert _without_id(streamed(ALL, **fields)) == _without_id(whole(ALL, **fields))


@pytest.mark.parametrize(
    ("last", "reason", "stop"),
    [
        (piece("b", "stop"), "end_turn", None),
        (piece("b", "length"), "max_tokens", None),
        (piece("b", "stop", stopped_by="END"), "stop_sequence", "END"),
        (piece("", "tool_calls", stopped_by="END", calls=[call(0, "run")]), "tool_use", None),
    ],
)
def test_an_answer_says_why_it_ended(last: Item, reason: str, stop: str | None) -> None:
    for message in (whole([piece("a"), last]), streamed([piece("a"), last])):
        assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)


def test_an_answer_without_anything_has_no_blocks() -> None:
    assert whole([piece("", "stop")])["content"] == []
    assert streamed([piece("", "stop")])["content"] == []


@pytest.mark.parametrize(
    ("tier", "told"), [("auto", "standard"), ("standard_only", "standard"), (None, "standard")]
)
def test_an_answer_says_its_class_in_anthropics_words(tier: str | None, told: str) -> None:
    usage = whole([piece("a", "stop")], service_tier=tier)["usage"]
    assert usage["service_tier"] == told


def test_an_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    *before, last = events_of([piece("a"), loading("going").to_item()])
    assert [event["type"] for event in before][-1] == "content_block_delta"
    assert last == {"type": "error", "error": {"type": "api_error", "message": "going"}}


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ("", {}),
        (" ", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"a": 1, "b": "cut', {"a": 1}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ('{"a": NaN}', {"INVALID_JSON": '{"a": NaN}'}),
        ('{"a": 1e999}', {"INVALID_JSON": '{"a": 1e999}'}),
        ("{'a': 1}", {"INVALID_JSON": "{'a': 1}"}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ('{"a": "\\ud800"}', {"INVALID_JSON": '{"a": "\\ud800"}'}),
        ('{"a":' * 500, {"INVALID_JSON": '{"a":' * 500}),
    ],
)
def test_an_input_is_an_object_whatever_was_written(arguments: str, read: Any) -> None:
    assert input_of(arguments) == read
    json.dumps(input_of(arguments), allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.sampled_from("tbrcCa"), max_size=12))
def test_whatever_comes_of_an_answer_its_stream_is_the_message(kinds: list[str]) -> None:
    """t: text, r: reasoning, b: both, c: a call, C: a call and text, a: more arguments and text."""
    pieces: list[Any] = []
    calls = 0
    for kind in kinds:
        more: dict[str, Any] = {"reasoning": "é\n"} if kind in "br" else {}
        if kind in "cC":
            more["calls"] = [call(calls, "run"), call(calls, None, '{"x":')]
            calls += 1
        elif kind == "a" and pieces and "calls" in pieces[-1] and not pieces[-1]["text"]:
            more["calls"] = [call(calls - 1, None, " 1}")]
        pieces.append(piece("\u2028t" * (kind in "tbCa"), **more))
    pieces.append(piece("", "length"))
    form, head = MessageFormat("msg_1", shows_thinking=True), Head("msg_1", 5, "a", "r1", "flex")
    usage = Usage([3])
    events = form.events(head, usage, 1)
    written = [events.opening()]
    for each in pieces:
        usage.add(each)
        written.append(events.piece(each))
    written.append(events.ended())
    message = form.whole(head, [Choice(pieces)], usage)
    assert _read(data_of("".join(written))) == message
    assert message["usage"]["service_tier"] == "batch"
    text = "".join(block.get("text", "") for block in message["content"])
    assert text == "".join(each["text"] for each in pieces)
    uses = [block for block in message["content"] if block["type"] == "tool_use"]
    assert len(uses) == calls


def test_counting_gives_the_number_alone() -> None:
    asked = {name: BODY[name] for name in ("model", "messages")}
    response = respond("POST", "/v1/messages/count_tokens", FakeClient(), json=asked)
    assert response.json() == {"input_tokens": 2}
    MessageTokensCount.model_validate(response.json(), strict=True)
    message_shapes.TokensCount.model_validate(response.json(), strict=True)


def test_models_are_listed_for_who_names_anthropics_version() -> None:
    headers = {"anthropic-version": "2023-06-01"}
    listed = respond("GET", "/v1/models", Listing(), headers=headers).json()
    message_shapes.ModelInfos.model_validate(listed, strict=True)
    assert (listed["first_id"], listed["last_id"]) == ("news-1", "code")
    one = respond("GET", "/v1/models/code", Listing(), headers=headers)
    assert one.json() == listed["data"][1]
    info = ModelInfo.model_validate_json(one.text, strict=True)
    assert (info.id, info.created_at.timestamp(), info.max_tokens) == ("code", 1, 9)
    assert respond("GET", "/v1/models", Listing()).json()["object"] == "list"


class Slow(FakeClient):
    """Says nothing for a while before its answer."""

    async def generate(self, job: Job) -> AsyncGenerator[list[Item], None]:
        yield [ACCEPTED]
        await asyncio.sleep(0.08)
        yield [piece("a", "stop")]


def test_a_stream_that_says_nothing_for_long_pings() -> None:
    async def run() -> str:
        app = build_api(Api(Slow(), RequestLimits(), keep_alive_s=0.03))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return (await http.post("/v1/messages", json={**BODY, "stream": True})).text

    kinds = [event["type"] for event in data_of(asyncio.run(run()))]
    assert kinds[0] == "message_start"
    assert {"ping"} == set(kinds[1 : kinds.index("content_block_start")])
    assert kinds[-1] == "message_stop"
