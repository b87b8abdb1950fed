"""Anthropic's protocol over HTTP, asked by the real anthropic client, of a fake engine."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import pytest

from serve_app.text.answers.finding import known_formats
from tests.serving.formats_endpoint import FORMS, RUN, USER, Asked, on_formats
from tests.text.answers.samples import KINDS, LONGEST, TOOLS, Sample

OFFERED: Any = [
    {"name": name, "description": "d", "input_schema": schema} for name, schema in TOOLS.items()
]


class Messages:
    """What models of each format answer, asked by the anthropic client."""

    def __init__(self, endpoint: Asked, client: anthropic.AsyncAnthropic) -> None:
        self.client = client
        self.prompt = endpoint.prompt
        self._will_answer = endpoint.will_answer

    async def whole(self, model: str, answer: str, **fields: Any) -> Any:
        self._will_answer(model, answer)
        return await self.client.messages.create(
            **{"model": model, "messages": [USER], "max_tokens": 999, **fields}
        )

    async def stream(self, model: str, answer: str, **fields: Any) -> Any:
        """The message that the client makes of the stream."""
        self._will_answer(model, answer)
        asked = {"model": model, "messages": [USER], "max_tokens": 999, **fields}
        async with self.client.messages.stream(**asked) as stream:
            said = "".join([text async for text in stream.text_stream])
            message = await stream.get_final_message()
        assert said == _texts(message)
        return message


def _run(test: Callable[[Messages], Awaitable[None]]) -> None:
    async def run(endpoint: Asked) -> None:
        async with anthropic.AsyncAnthropic(
            base_url="http://test", api_key="none", max_retries=0, http_client=endpoint.http
        ) as client:
            await test(Messages(endpoint, client))

    on_formats(run)


def _texts(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def _said(message: Any) -> Any:
    """All of it but the ids, which are made of the request's."""
    content = [{**block.to_dict(), "id": None} for block in message.content]
    return content, message.stop_reason, message.stop_sequence


def test_a_stream_is_the_message_unstreamed_in_every_format() -> None:
    async def same(asked: Messages, sample: Sample) -> None:
        begin = known_formats()[sample.form].begun(sample.prompt)
        fields: dict[str, Any] = {"extra_body": {"chat_template_kwargs": {"begin": begin}}}
        if sample.form in FORMS:
            fields["tools"] = OFFERED
        message = await asked.whole(sample.form, sample.text, **fields)
        streamed = await asked.stream(sample.form, sample.text, **fields)
        assert _said(streamed) == _said(message)
        assert _texts(message) == sample.content
        thoughts = [block.thinking for block in message.content if block.type == "thinking"]
        assert "".join(thoughts) == sample.reasoning
        called = [
            (block.name, block.input) for block in message.content if block.type == "tool_use"
        ]
        assert called == [(name, dict(arguments)) for name, arguments in sample.calls]
        assert message.stop_reason == ("tool_use" if sample.calls else "end_turn")

    async def test(asked: Messages) -> None:
        """All samples are asked as chats; here the longest of each format, and one of each kind."""
        assert LONGEST.keys() == known_formats().keys()
        chosen = {each.text: each for each in (*LONGEST.values(), *KINDS.values())}
        for sample in chosen.values():
            await same(asked, sample)

    _run(test)


def test_a_tool_is_called_and_its_result_is_read() -> None:
    async def test(asked: Messages) -> None:
        first = await asked.whole("hermes", "I run. " + RUN, tools=OFFERED, system="be brief")
        use = first.content[-1]
        assert (use.name, use.input, first.stop_reason) == ("run", {"a": 1}, "tool_use")
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "5"}
        history: Any = [
            USER,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = await asked.whole("hermes", "It is 5.", tools=OFFERED, messages=history)
        assert _texts(second) == "It is 5."
        prompt = asked.prompt()
        assert '"arguments": {"a": 1}' in prompt
        assert "assistant: I run.[" in prompt
        assert "tool: 5\n" in prompt

    _run(test)


@pytest.mark.parametrize(
    ("choice", "begun", "rest"),
    [
        ({"type": "any"}, '<tool_call>\n{"name": "', 'run", "arguments": {"a": 1}}</tool_call>'),
        ({"type": "tool", "name": "run"}, '{"name": "run", "arguments": ', '{"a": 1}}</tool_call>'),
    ],
)
def test_a_call_that_is_asked_for_is_made(choice: Any, begun: str, rest: str) -> None:
    async def test(asked: Messages) -> None:
        answer = await asked.whole("hermes", rest, tools=OFFERED, tool_choice=choice)
        assert asked.prompt().endswith(begun)
        [use] = answer.content
        assert (use.name, use.input) == ("run", {"a": 1})

    _run(test)


def test_a_stop_sequence_is_told() -> None:
    async def test(asked: Messages) -> None:
        for ask in (asked.whole, asked.stream):
            message = await ask("hermes", "one two three", stop_sequences=["x", " thr"])
            assert _texts(message) == "one two"
            assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " thr")
            cut = await ask("hermes", "one two three", max_tokens=2)
            assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)

    _run(test)


def test_an_answer_goes_on_where_the_last_message_ends() -> None:
    async def test(asked: Messages) -> None:
        messages = [USER, {"role": "assistant", "content": "The answer"}]
        message = await asked.whole("hermes", " is 5.", messages=messages)
        assert asked.prompt().endswith("assistant: The answer")
        assert _texts(message) == "is 5."

    _run(test)


def test_tokens_are_counted_as_the_message_takes_them() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "x"}}

    async def test(asked: Messages) -> None:
        prefill = [USER, {"role": "assistant", "content": "The"}]
        for fields in (
            {},
            {"system": "be brief", "messages": prefill},
            {"tools": OFFERED, "thinking": {"type": "disabled"}},
            {"tools": OFFERED, "tool_choice": {"type": "tool", "name": "run"}},
        ):
            told: Any = {"model": "hermes", "messages": [USER], **fields}
            count = await asked.client.messages.count_tokens(**told)
            usage = (await asked.whole("hermes", '{"a": 1}}', **fields)).usage
            assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
        for model, content, says in (("nobody", "x", "nobody"), ("hermes", [image], "image")):
            wrong: Any = [{"role": "user", "content": content}]
            with pytest.raises(anthropic.APIStatusError, match=says):
                await asked.client.messages.count_tokens(model=model, messages=wrong)

    _run(test)


def test_errors_are_the_clients_own() -> None:
    async def test(asked: Messages) -> None:
        cases: list[tuple[type[anthropic.APIStatusError], str, dict[str, Any], str]] = [
            (anthropic.NotFoundError, "nobody", {}, "not_found_error"),
            (anthropic.BadRequestError, "plain", {"tools": OFFERED}, "invalid_request_error"),
            (anthropic.BadRequestError, "plain", {"max_tokens": 9999}, "invalid_request_error"),
        ]
        for kind, model, fields, name in cases:
            for ask in (asked.whole, asked.stream):
                with pytest.raises(kind) as caught:
                    await ask(model, "x", **fields)
                assert caught.value.type == name
                assert caught.value.request_id

    _run(test)


def test_models_are_listed() -> None:
    async def test(asked: Messages) -> None:
        models = [model async for model in asked.client.models.list()]
        assert {model.id for model in models} == {*FORMS, "think", "plain"}
        one = await asked.client.models.retrieve("think")
        assert json.loads(one.to_json())["type"] == "model"

    _run(test)
