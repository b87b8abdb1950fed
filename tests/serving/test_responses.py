"""Responses over HTTP, asked by the real openai client, of a fake engine."""

import json
from typing import Any

import openai
import pytest

from serve_app.api.answers.answer_parts import Begun, Grown, PartEvent, Parts
from serve_app.protocol.messages import Piece
from serve_app.text.answers.answer_parser import AnswerParser, Parsed
from serve_app.text.answers.finding import known_formats
from tests.api.responses.events import output_of, replayed, strictly
from tests.serving.formats_endpoint import FORMS, RUN, Asked, on_formats
from tests.text.answers.samples import KINDS, SAMPLES, TOOLS, Sample

OFFERED: Any = [
    {"type": "function", "name": name, "description": "d", "parameters": schema}
    for name, schema in TOOLS.items()
]
CHAT_OFFERED: Any = [{"type": "function", "function": {**tool}} for tool in OFFERED]
for _tool in CHAT_OFFERED:
    del _tool["function"]["type"]
USER = {"role": "user", "content": "hi"}


async def whole(asked: Asked, model: str, answer: str, **fields: Any) -> Any:
    asked.will_answer(model, answer)
    response = await asked.client.responses.create(**{"model": model, "input": "hi", **fields})
    strictly(response)
    return response


async def stream(asked: Asked, model: str, answer: str, **fields: Any) -> list[Any]:
    asked.will_answer(model, answer)
    wanted = {"model": model, "input": "hi", **fields}
    events = [event async for event in await asked.client.responses.create(**wanted, stream=True)]
    for event in events:
        strictly(event)
    return events


def said(output: list[dict[str, Any]], kind: str) -> list[str]:
    return [item["text"] for item in output if item["type"] == kind]


def test_a_stream_joined_is_the_answer_unstreamed_and_that_of_a_chat() -> None:
    async def same(asked: Asked, sample: Sample) -> None:
        begin = known_formats()[sample.form].begun(sample.prompt)
        fields: dict[str, Any] = {"extra_body": {"chat_template_kwargs": {"begin": begin}}}
        tools = {"tools": OFFERED} if sample.form in FORMS else {}
        response = await whole(asked, sample.form, sample.text, **fields, **tools)
        prompt = asked.prompt()
        output = output_of(response)
        events = await stream(asked, sample.form, sample.text, **fields, **tools)
        assert [{**each, "id": None} for each in replayed(events)] == [
            {**each, "id": None} for each in output
        ]
        assert events[-1].type == "response.completed"
        assert "".join(said(output, "reasoning")) == sample.reasoning
        assert response.output_text == sample.content
        called = [json.loads(arguments) for arguments in said(output, "function_call")]
        assert called == [dict(arguments) for _, arguments in sample.calls]
        if sample.form in FORMS:
            fields["tools"] = CHAT_OFFERED
        chat = await asked.whole(sample.form, sample.text, **fields)
        assert asked.prompt() == prompt
        message = chat.choices[0].message
        assert (message.content or "") == response.output_text
        usage = response.usage
        assert chat.usage.completion_tokens == usage.output_tokens
        assert bool(sample.reasoning) <= bool(usage.output_tokens_details.reasoning_tokens)

    async def test(asked: Asked) -> None:
        assert len(KINDS) >= 5
        for sample in KINDS.values():
            await same(asked, sample)

    on_formats(test)


def test_what_comes_of_an_answer_is_the_same_however_its_text_is_cut() -> None:
    """Cut in two anywhere, it is parsed as it is whole: tests of the parser show that of all."""

    def cut(sample: Sample, *texts: str) -> dict[str, list[str]]:
        form, parts = known_formats()[sample.form], Parts()
        tools = TOOLS if form.has_calls else None
        parser = AnswerParser(form, form.begun(sample.prompt), tools)
        pieces = [*map(parser.feed, texts), parser.end()]
        return joined([event for piece in pieces for event in parts.add(_piece(piece))])

    for sample in SAMPLES:
        every = cut(sample, *sample.text)
        assert every["text"] == [sample.content]
        assert every["reasoning"] == [sample.reasoning]
        assert len(every["call"]) == len(sample.calls)
        if sample not in KINDS.values():
            continue
        for at in range(len(sample.text)):
            assert cut(sample, sample.text[:at], sample.text[at:]) == every, (sample, at)


def joined(events: list[PartEvent]) -> dict[str, list[str]]:
    """All text, all reasoning, and the arguments of each call."""
    found: dict[str, list[str]] = {"text": [""], "reasoning": [""], "call": []}
    for event in events:
        if isinstance(event, Begun) and event.kind == "call":
            found["call"].append("")
        elif isinstance(event, Grown):
            found[event.kind][-1] += event.text
    return found


def _piece(parsed: Parsed) -> Piece:
    piece: Piece = {
        "type": "piece",
        "choice": 0,
        "text": parsed.content,
        "tokens": [],
        "num_tokens": 1,
        "num_cached": 0,
        "finish": None,
    }
    if parsed.reasoning:
        piece["reasoning"] = parsed.reasoning
    if parsed.calls:
        piece["calls"] = parsed.calls
    return piece


def test_the_output_of_an_answer_is_the_history_of_the_next() -> None:
    async def test(asked: Asked) -> None:
        answer = "<think>\nso\n</think>\n\nI run. " + RUN
        first = await whole(asked, "hermes", answer, tools=OFFERED)
        [call] = [item for item in first.output if item.type == "function_call"]
        history = [
            USER,
            *first.output,
            {"type": "function_call_output", "call_id": call.call_id, "output": "5"},
        ]
        second = await whole(asked, "hermes", "It is 5.", input=history, tools=OFFERED)
        assert second.output_text == "It is 5."
        prompt = asked.prompt()
        assert "user: hi\nassistant: I run.so[" in prompt
        assert '"arguments": {"a": 1}' in prompt
        assert f'"id": "{call.call_id}"' in prompt
        assert "tool: 5\n" in prompt

    on_formats(test)


def test_the_clients_own_stream_adds_up_what_it_gets() -> None:
    async def test(asked: Asked) -> None:
        asked.will_answer("hermes", "<think>\nso\n</think>\n\nI run. " + RUN)
        fields: Any = {"model": "hermes", "input": "hi", "tools": OFFERED}
        async with asked.client.responses.stream(**fields) as events:
            snapshots = [
                event.snapshot
                async for event in events
                if event.type == "response.output_text.delta"
            ]
            final = await events.get_final_response()
        assert snapshots[-1] == final.output_text == "I run."
        assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
        assert output_of(final)[-1]["text"] == '{"a": 1}'

    on_formats(test)


def test_a_call_that_is_required_is_made_and_ends_the_answer() -> None:
    async def test(asked: Asked) -> None:
        rest = '{"a": 1}}</tool_call>' + RUN
        fields: Any = {"tools": OFFERED, "tool_choice": {"type": "function", "name": "run"}}
        response = await whole(asked, "hermes", rest, **fields)
        [call] = response.output
        assert (call.name, call.arguments) == ("run", '{"a": 1}')
        assert response.tool_choice.name == "run"

    on_formats(test)


def test_a_limit_of_tokens_makes_an_answer_incomplete() -> None:
    async def test(asked: Asked) -> None:
        response = await whole(asked, "plain", "Hello", max_output_tokens=2)
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.usage.output_tokens == 2
        events = await stream(asked, "plain", "Hello", max_output_tokens=2)
        assert events[-1].type == "response.incomplete"

    on_formats(test)


def test_refusals_name_the_fields_of_responses() -> None:
    async def test(asked: Asked) -> None:
        for fields, param, says in (
            ({"max_output_tokens": 10_000}, "input", "in the input"),
            ({"tools": OFFERED}, "tools", "no response template"),
            ({"extra_body": {"messages": []}}, "messages", "Unrecognized"),
            ({"previous_response_id": "resp_x"}, "previous_response_id", "not stored"),
            ({"background": True}, "background", "not stored"),
        ):
            with pytest.raises(openai.BadRequestError, match=says) as caught:
                await whole(asked, "think", "x", **fields)
            assert caught.value.param == param
        with pytest.raises(openai.NotFoundError, match="answers are not stored"):
            await asked.client.responses.retrieve("resp_x")
        with pytest.raises(openai.NotFoundError, match="answers are not stored"):
            await asked.client.responses.cancel("resp_x")

    on_formats(test)
