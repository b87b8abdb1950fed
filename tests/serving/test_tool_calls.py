"""Tools, reasoning and histories over HTTP, asked by the real openai client, of a fake engine."""

import json
from typing import Any

import openai
import pytest

from serve_app.text.answers.finding import known_formats
from tests.serving.formats_endpoint import FORMS, OFFERED, RUN, USER, Asked, on_formats
from tests.text.answers.samples import SAMPLES, Sample


def _joined(chunks: list[Any]) -> dict[str, Any]:
    """What a stream says, as the message that it stands for."""
    content, reasoning, calls = "", "", list[dict[str, Any]]()
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for delta in choice.delta.tool_calls or ():
                if delta.id is not None:
                    assert delta.index == len(calls)
                    calls.append({"id": delta.id, "name": delta.function.name, "arguments": ""})
                calls[delta.index]["arguments"] += delta.function.arguments
    return {"content": content, "reasoning": reasoning, "calls": calls}


def _message(answer: Any) -> dict[str, Any]:
    message = answer.choices[0].message
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in message.tool_calls or ()
    ]
    reasoning = getattr(message, "reasoning_content", None) or ""
    return {"content": message.content or "", "reasoning": reasoning, "calls": calls}


def _without_ids(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "calls": [{**call, "id": None} for call in message["calls"]]}


def test_a_stream_joined_is_the_answer_unstreamed_in_every_format() -> None:
    async def same(asked: Asked, sample: Sample) -> None:
        begin = known_formats()[sample.form].begun(sample.prompt)
        fields: dict[str, Any] = {"extra_body": {"chat_template_kwargs": {"begin": begin}}}
        if sample.form in FORMS:
            fields["tools"] = OFFERED
        answer = await asked.whole(sample.form, sample.text, **fields)
        chunks = await asked.stream(sample.form, sample.text, **fields)
        message = _message(answer)
        assert _without_ids(_joined(chunks)) == _without_ids(message)
        assert message["content"] == sample.content
        assert message["reasoning"] == sample.reasoning
        called = [(call["name"], json.loads(call["arguments"])) for call in message["calls"]]
        assert called == [(name, dict(arguments)) for name, arguments in sample.calls]
        finish = "tool_calls" if sample.calls else "stop"
        assert answer.choices[0].finish_reason == finish
        assert chunks[-1].choices[0].finish_reason == finish

    async def test(asked: Asked) -> None:
        for sample in SAMPLES:
            await same(asked, sample)

    on_formats(test)


def test_arguments_are_streamed_as_openai_does() -> None:
    async def test(asked: Asked) -> None:
        chunks = await asked.stream("hermes", "I run. " + RUN, tools=OFFERED)
        deltas = [chunk.choices[0].delta for chunk in chunks]
        called = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
        assert (called[0].function.name, called[0].type, called[0].index) == ("run", "function", 0)
        assert len(called[0].id) == 9
        assert called[0].id.isalnum()
        assert all(delta.id is None and delta.function.name is None for delta in called[1:])
        assert len(called) > 3, "arguments come as they are written"
        assert "".join(delta.function.arguments for delta in called) == '{"a": 1}'
        assert deltas[0].role == "assistant"

    on_formats(test)


def test_log_probabilities_are_of_all_that_the_model_writes() -> None:
    async def test(asked: Asked) -> None:
        answer = await asked.whole("hermes", RUN, tools=OFFERED, logprobs=True)
        content = answer.choices[0].logprobs.content
        assert "".join(bytes(token.bytes).decode() for token in content[:-1]) == RUN
        assert answer.choices[0].message.content is None
        chunks = await asked.stream("hermes", RUN, tools=OFFERED, logprobs=True)
        shown = [chunk.choices[0].logprobs for chunk in chunks]
        assert sum(len(each.content) for each in shown if each is not None) == len(content)

    on_formats(test)


def test_what_is_chosen_shapes_the_prompt_and_the_answer() -> None:
    async def test(asked: Asked) -> None:
        text = "x " + RUN + RUN
        none = await asked.whole("hermes", text, tools=OFFERED, tool_choice="none")
        assert (none.choices[0].message.content, none.choices[0].message.tool_calls) == (text, None)
        assert '"get_weather"' not in asked.prompt()
        both = await asked.whole("hermes", text, tools=OFFERED, tool_choice="auto")
        assert [call.function.name for call in both.choices[0].message.tool_calls] == ["run"] * 2
        assert '"get_weather"' in asked.prompt()
        one = await asked.whole("hermes", text, tools=OFFERED, parallel_tool_calls=False)
        assert len(one.choices[0].message.tool_calls) == 1
        assert one.choices[0].finish_reason == "tool_calls"
        assert one.usage.completion_tokens < both.usage.completion_tokens
        for tool_choice, begun, rest in (
            ("required", '<tool_call>\n{"name": "', 'run", "arguments": {"a": 1}}</tool_call>'),
            (_named("run"), '{"name": "run", "arguments": ', '{"a": 1}}</tool_call>'),
        ):
            answer = await asked.whole("hermes", rest, tools=OFFERED, tool_choice=tool_choice)
            assert asked.prompt().endswith(begun)
            [call] = answer.choices[0].message.tool_calls
            assert (call.function.name, call.function.arguments) == ("run", '{"a": 1}')
            assert answer.choices[0].message.content is None
            chunks = await asked.stream("hermes", rest, tools=OFFERED, tool_choice=tool_choice)
            assert _without_ids(_joined(chunks)) == _without_ids(_message(answer))

    on_formats(test)


@pytest.mark.parametrize("several", [True, False])
def test_a_call_that_is_cut_by_the_length_is_not_told_as_whole(several: bool) -> None:
    async def test(asked: Asked) -> None:
        num_tokens = len(asked.tokenizer("hermes").encode(RUN, special=False))
        fields: dict[str, Any] = {"tools": OFFERED, "parallel_tool_calls": several}
        for num in range(num_tokens - 23, num_tokens + 2, 3):
            answer = await asked.whole("hermes", RUN, max_tokens=num, **fields)
            finish, calls = answer.choices[0].finish_reason, _message(answer)["calls"]
            is_whole = bool(calls) and calls[0]["arguments"] == '{"a": 1}'
            assert finish in ("length", "tool_calls" if is_whole else "length"), (num, calls)
        assert (finish, is_whole) == ("tool_calls", True)

    on_formats(test)


def test_functions_are_answered_as_they_were_offered() -> None:
    async def test(asked: Asked) -> None:
        offered: Any = [{"name": "run", "parameters": {"type": "object"}}]
        answer = await asked.whole("hermes", "I run. " + RUN + RUN, functions=offered)
        [choice] = answer.choices
        assert (choice.finish_reason, choice.message.tool_calls) == ("function_call", None)
        assert choice.message.content == "I run."
        call = choice.message.function_call
        assert (call.name, call.arguments) == ("run", '{"a": 1}')
        chunks = await asked.stream("hermes", "I run. " + RUN, functions=offered)
        deltas = [chunk.choices[0].delta.function_call for chunk in chunks]
        told = [delta for delta in deltas if delta is not None]
        assert [delta.name for delta in told] == ["run"] + [None] * (len(told) - 1)
        assert "".join(delta.arguments for delta in told) == '{"a": 1}'
        assert chunks[-1].choices[0].finish_reason == "function_call"
        named: Any = {"functions": offered, "function_call": {"name": "run"}}
        answer = await asked.whole("hermes", '{"a": 1}}</tool_call>', **named)
        assert answer.choices[0].message.function_call.name == "run"
        said = answer.choices[0].message.to_dict()
        result: Any = {"role": "function", "name": "run", "content": "5"}
        again = await asked.whole("hermes", "ok", messages=[USER, said, result])
        assert again.choices[0].finish_reason == "stop"

    on_formats(test)


def test_usage_tells_the_tokens_of_reasoning() -> None:
    async def test(asked: Asked) -> None:
        opens, rest = "<think>", "so</think>"  # where it takes several tokens to open, the last
        answer = await asked.whole("hermes", f"{opens}{rest}5")
        assert answer.usage.completion_tokens_details.reasoning_tokens == 1 + len(rest)
        options = {"include_usage": True}
        chunks = await asked.stream("hermes", f"{opens}{rest}5", stream_options=options)
        assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 1 + len(rest)

    on_formats(test)


def _named(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


def test_a_call_that_is_required_ends_the_reasoning_that_the_prompt_begins() -> None:
    async def test(asked: Asked) -> None:
        fields: Any = {"extra_body": {"chat_template_kwargs": {"begin": "<think>\n"}}}
        rest = '{"a": 1}}</tool_call>'
        answer = await asked.whole(
            "hermes", rest, tools=OFFERED, tool_choice=_named("run"), **fields
        )
        assert '<think>\n\n</think>\n\n<tool_call>\n{"name": "run"' in asked.prompt()
        assert answer.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}'

    on_formats(test)


@pytest.mark.parametrize(
    ("model", "fields", "param", "says"),
    [
        ("plain", {}, "tools", "does not show tools"),
        ("think", {}, "tools", "no response template says how"),
    ],
)
def test_tools_that_a_model_cannot_call_are_refused(
    model: str, fields: dict[str, Any], param: str, says: str
) -> None:
    async def test(asked: Asked) -> None:
        with pytest.raises(openai.BadRequestError, match=says) as caught:
            await asked.whole(model, "x", tools=OFFERED, **fields)
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
        await asked.whole(model, "x", tools=OFFERED, tool_choice="none")

    on_formats(test)


def test_a_history_reaches_the_template_in_its_own_form() -> None:
    call = {"id": "abcdefghi", "type": "function"}
    history: Any = [
        {"role": "developer", "content": "be brief"},
        USER,
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "so",
            "tool_calls": [{**call, "function": {"name": "run", "arguments": '{"a": [1]}'}}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "abcdefghi"},
    ]

    async def test(asked: Asked) -> None:
        await asked.whole("hermes", "x", messages=history, reasoning_effort="low")
        prompt = asked.prompt()
        assert prompt.startswith("system: be brief\nuser: hi\nassistant: so[")
        assert '"arguments": {"a": [1]}' in prompt
        assert prompt.endswith("tool: 5\nlow<|im_start|>assistant\n")
        await asked.whole("deepseek_v3", "x", messages=history)
        assert '"arguments": "{\\"a\\": [1]}"' in asked.prompt()

    on_formats(test)


def test_an_answer_goes_on_where_the_last_message_ends() -> None:
    async def test(asked: Asked) -> None:
        messages: Any = [USER, {"role": "assistant", "content": "The answer"}]
        body = {"continue_final_message": True}
        answer = await asked.whole("hermes", " is 5.", messages=messages, extra_body=body)
        assert asked.prompt().endswith("assistant: The answer")
        assert answer.choices[0].message.content == "is 5."
        bare = {"add_generation_prompt": False}
        await asked.whole("hermes", "x", extra_body=bare)
        assert asked.prompt() == "user: hi\n"

    on_formats(test)


def test_special_tokens_that_mean_nothing_to_the_format_are_not_shown() -> None:
    async def test(asked: Asked) -> None:
        answer = await asked.whole("mistral", "a<unused>b[TOOL_CALLS]x")
        assert answer.choices[0].message.content == "ab[TOOL_CALLS]x"

    on_formats(test)


def test_models_say_by_what_their_answers_are_parsed() -> None:
    async def test(asked: Asked) -> None:
        models = [model async for model in asked.client.models.list()]
        found = {model.id: getattr(model, "response_template", "") for model in models}
        assert found == {**{name: name for name in (*FORMS, "think")}, "plain": None}

    on_formats(test)
