"""Chats by the openai client."""

import json
from typing import Any

import openai
import pydantic

from tests.clients.calling import Facts
from tests.clients.questions import (
    HISTORY,
    LENGTH,
    LONGEST,
    NAMED,
    PARAMETERS,
    TOOLS,
    USER,
    check_weather,
    holds,
    raises,
    reached,
    same,
    stop_in,
)


class Weather(pydantic.BaseModel):
    days: int = pydantic.Field(ge=1, le=3)
    sunny: bool


def _client(facts: Facts, **change: Any) -> openai.OpenAI:
    return openai.OpenAI(**reached(facts, **change))


def _asked(facts: Facts, **change: Any) -> dict[str, Any]:
    asked = {"model": facts.model, "messages": [USER], "max_tokens": LENGTH, "temperature": 0}
    return {**asked, **change}


def _brief(facts: Facts, **change: Any) -> dict[str, Any]:
    """Of whom an answer must end by itself."""
    return {"model": facts.brief, "max_tokens": LONGEST, **change}


def _chat(facts: Facts, **change: Any) -> Any:
    return _client(facts).chat.completions.create(**_asked(facts, **change))


def _streamed(facts: Facts, **change: Any) -> list[Any]:
    return list(
        _client(facts).chat.completions.create(
            **_asked(facts, stream=True, stream_options={"include_usage": True}, **change)
        )
    )


def _deltas(chunks: list[Any]) -> list[Any]:
    return [choice.delta for chunk in chunks for choice in chunk.choices]


def _check_usage(usage: Any, tokens: int | None = None) -> None:
    holds(usage.prompt_tokens > 0, usage)
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    if tokens is not None:
        same(usage.completion_tokens, tokens)


def models_are_listed(facts: Facts) -> None:
    client = _client(facts)
    same([model.id for model in client.models.list()], list(facts.models))
    same(client.models.retrieve(facts.model).object, "model")


def a_chat_is_answered(facts: Facts) -> None:
    answer = _chat(facts)
    same((answer.object, answer.model, len(answer.choices)), ("chat.completion", facts.model, 1))
    holds(answer.choices[0].message.content, answer)
    same(answer.choices[0].finish_reason, "length")
    _check_usage(answer.usage, LENGTH)


def an_answer_ends_by_itself(facts: Facts) -> None:
    answer = _chat(facts, **_brief(facts))
    choice = answer.choices[0]
    same((choice.message.content, choice.finish_reason), (facts.says, "stop"))
    _check_usage(answer.usage)


def a_stream_joined_is_the_answer(facts: Facts) -> None:
    whole, chunks = _chat(facts), _streamed(facts)
    text = "".join(delta.content or "" for delta in _deltas(chunks))
    same(text, whole.choices[0].message.content)
    same(_deltas(chunks)[0].role, "assistant")
    same(chunks[-1].usage.to_dict(), whole.usage.to_dict() | _cached(chunks[-1]))
    same({chunk.id for chunk in chunks}, {chunks[0].id})


def _cached(chunk: Any) -> dict[str, Any]:
    """The second of two equal prompts was computed already."""
    return {"prompt_tokens_details": chunk.usage.prompt_tokens_details.to_dict()}


def a_raw_response_has_its_headers(facts: Facts) -> None:
    client = _client(facts)
    raw = client.chat.completions.with_raw_response.create(**_asked(facts))
    same(raw.status_code, 200)
    holds(raw.headers["x-request-id"], raw.headers)
    answer = raw.parse()
    same(answer._request_id, raw.headers["x-request-id"])
    _check_usage(answer.usage, LENGTH)
    streaming = client.chat.completions.with_streaming_response
    with streaming.create(**_asked(facts, stream=True)) as response:
        lines = list(response.iter_lines())
    same([line for line in lines if line][-1], "data: [DONE]")


def log_probabilities_come_for_each_token(facts: Facts) -> None:
    answer = _chat(facts, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    same(len(content), answer.usage.completion_tokens)
    for token in content:
        same(len(token.top_logprobs), 3)
        same(token.logprob, max(each.logprob for each in token.top_logprobs))
        holds(token.logprob <= 0, token)
    chunks = _streamed(facts, logprobs=True, top_logprobs=3)
    shown = [choice.logprobs for chunk in chunks for choice in chunk.choices]
    streamed = [token for each in shown if each for token in each.content]
    same([token.token for token in streamed], [token.token for token in content])


def several_choices_with_a_seed_are_the_same_again(facts: Facts) -> None:
    first, second = (_chat(facts, n=2, seed=5, temperature=1) for _ in range(2))
    texts = [[choice.message.content for choice in each.choices] for each in (first, second)]
    same(texts[0], texts[1])
    holds(texts[0][0] != texts[0][1], texts)
    same([choice.index for choice in first.choices], [0, 1])
    _check_usage(first.usage, 2 * LENGTH)


def a_stop_string_ends_an_answer(facts: Facts) -> None:
    stop = stop_in(facts.says)
    answer = _chat(facts, **_brief(facts, stop=[stop]))
    same(answer.choices[0].message.content, facts.says.partition(stop)[0])
    same(answer.choices[0].finish_reason, "stop")


def parts_of_text_and_the_role_developer_are_read(facts: Facts) -> None:
    parts = [{"type": "text", "text": USER["content"]}]
    developer, system = ({"role": role, "content": "Be brief."} for role in ("developer", "system"))
    given = _chat(facts, messages=[developer, {"role": "user", "content": parts, "name": "ann"}])
    usual = _chat(facts, messages=[system, USER])
    same(given.choices[0].message.content, usual.choices[0].message.content)


def fields_that_change_nothing_are_taken(facts: Facts) -> None:
    answer = _chat(
        facts,
        metadata={"a": "b"},
        store=False,
        user="ann",
        safety_identifier="ann",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        verbosity="low",
        service_tier="auto",
        modalities=["text"],
        prediction={"type": "content", "content": "x"},
        logit_bias={"40": -1},
        frequency_penalty=0,
        presence_penalty=0,
        response_format={"type": "text"},
        parallel_tool_calls=True,
    )
    _check_usage(answer.usage)


def reasoning_is_told_apart(facts: Facts) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": PARAMETERS}}
    both = _chat(facts, **_brief(facts, reasoning_effort="low", response_format=schema))
    same(both.choices[0].message.reasoning_content.strip(), facts.says)
    check_weather(both.choices[0].message.content)
    message = _chat(facts, reasoning_effort="low").choices[0].message
    same(message.content, "")
    chunks = _streamed(facts, reasoning_effort="low")
    text = "".join(getattr(delta, "reasoning_content", None) or "" for delta in _deltas(chunks))
    same(text, message.reasoning_content)


def tools_may_be_called(facts: Facts) -> None:
    answer = _chat(facts, tools=TOOLS, tool_choice="auto")
    holds(answer.choices[0].message.content or answer.choices[0].message.tool_calls, answer)
    none = _chat(facts, tools=TOOLS, tool_choice="none")
    same(none.choices[0].message.tool_calls, None)


def a_named_tool_is_called(facts: Facts) -> None:
    answer = _chat(facts, **_brief(facts, tools=TOOLS, tool_choice=NAMED))
    [call] = answer.choices[0].message.tool_calls
    same((call.type, call.function.name), ("function", "get_weather"))
    check_weather(call.function.arguments)
    same(answer.choices[0].finish_reason, "tool_calls")


def a_tool_is_called_where_one_must_be(facts: Facts) -> None:
    fields = _brief(facts, tools=TOOLS, tool_choice="required")
    answer = _chat(facts, **fields)
    calls = answer.choices[0].message.tool_calls
    holds(calls and all(call.function.name in ("get_weather", "run") for call in calls), answer)
    same(answer.choices[0].finish_reason, "tool_calls")
    chunks = _streamed(facts, **fields)
    deltas = [call for delta in _deltas(chunks) for call in delta.tool_calls or ()]
    names = [call.function.name for call in deltas if call.id is not None]
    same(names, [call.function.name for call in calls])
    for index, call in enumerate(calls):
        parts = [delta.function.arguments or "" for delta in deltas if delta.index == index]
        same("".join(parts), call.function.arguments)


def a_strict_tool_is_taken(facts: Facts) -> None:
    strict = {"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}
    answer = _chat(facts, **_brief(facts, tools=[strict], tool_choice=NAMED))
    check_weather(answer.choices[0].message.tool_calls[0].function.arguments)


def a_history_with_calls_is_continued(facts: Facts) -> None:
    answer = _chat(facts, **_brief(facts, messages=HISTORY, tools=TOOLS))
    same(answer.choices[0].message.content, facts.says)
    asked = _brief(facts, tools=TOOLS, tool_choice=NAMED)
    said = _chat(facts, **asked).choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "rain"}
    again = _chat(facts, **_brief(facts, messages=[USER, said, result], tools=TOOLS))
    same(again.choices[0].message.content, facts.says)


def the_helper_for_streams_gives_the_answer(facts: Facts) -> None:
    asked = _asked(facts, **_brief(facts))  # the helper takes no answer that its length has cut
    kinds: set[str] = set()
    with _client(facts).chat.completions.stream(**asked) as stream:
        for event in stream:
            kinds.add(event.type)
        final = stream.get_final_completion()
    holds({"chunk", "content.delta", "content.done"} <= kinds, kinds)
    same(final.choices[0].message.content, facts.says)


def the_helper_for_streams_reads_calls(facts: Facts) -> None:
    fields = _brief(facts, tools=TOOLS, tool_choice=NAMED)
    done: list[Any] = []
    with _client(facts).chat.completions.stream(**_asked(facts, **fields)) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.done":
                done.append(event)
        final: Any = stream.get_final_completion()
    same([event.name for event in done], ["get_weather"])
    check_weather(done[0].arguments)
    check_weather(final.choices[0].message.tool_calls[0].function.arguments)


def an_answer_is_an_object_of_json(facts: Facts) -> None:
    answer = _chat(facts, **_brief(facts, response_format={"type": "json_object"}))
    choice = answer.choices[0]
    same(choice.finish_reason, "stop")
    holds(isinstance(json.loads(choice.message.content), dict), choice)


def an_answer_fits_its_schema(facts: Facts) -> None:
    schema = {"name": "weather", "schema": PARAMETERS, "strict": True}
    form: Any = {"type": "json_schema", "json_schema": schema}
    answer = _chat(facts, **_brief(facts, response_format=form))
    same(answer.choices[0].finish_reason, "stop")
    check_weather(answer.choices[0].message.content)
    chunks = _streamed(facts, **_brief(facts, response_format=form))
    text = "".join(delta.content or "" for delta in _deltas(chunks))
    same(text, answer.choices[0].message.content)


def a_class_is_read_from_an_answer(facts: Facts) -> None:
    asked = _asked(facts, **_brief(facts))
    client = _client(facts)
    answer = client.chat.completions.parse(**asked, response_format=Weather)
    parsed = answer.choices[0].message.parsed
    holds(isinstance(parsed, Weather), answer)
    with client.chat.completions.stream(**asked, response_format=Weather) as stream:
        final = stream.get_final_completion()
    same(final.choices[0].message.parsed, parsed)


def a_function_of_a_class_is_called(facts: Facts) -> None:
    tool = openai.pydantic_function_tool(Weather)
    named: Any = {"type": "function", "function": {"name": "Weather"}}
    answer = _client(facts).chat.completions.parse(
        **_asked(facts, **_brief(facts)), tools=[tool], tool_choice=named
    )
    [call] = answer.choices[0].message.tool_calls or []
    holds(isinstance(call.function.parsed_arguments, Weather), call)


def errors_are_the_clients_own(facts: Facts) -> None:
    def ask(**change: Any) -> Any:
        return lambda: _chat(facts, **change)

    raises(openai.NotFoundError, ask(model="nobody"), code="model_not_found", status_code=404)
    raises(openai.BadRequestError, ask(temperature=9), param="temperature")
    raises(openai.BadRequestError, ask(extra_body={"max_token": 5}), param="max_token")
    long = [{"role": "user", "content": "x" * (facts.context + 1)}]
    raises(openai.BadRequestError, ask(messages=long), code="context_length_exceeded")
    nobody = _client(facts, api_key="sk-nobody")
    raises(openai.AuthenticationError, lambda: nobody.models.list(), code="invalid_api_key")
    hasty = _client(facts, timeout=0.001)
    raises(openai.APITimeoutError, lambda: hasty.chat.completions.create(**_asked(facts)))
    raises(openai.NotFoundError, lambda: _client(facts).models.retrieve("nobody"))


def a_picture_is_sent(facts: Facts) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    _chat(facts, messages=[{"role": "user", "content": [picture]}])


def speech_is_wanted(facts: Facts) -> None:
    _chat(facts, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})


def the_web_is_to_be_searched(facts: Facts) -> None:
    _chat(facts, web_search_options={"search_context_size": "low"})


def a_tool_without_a_schema_is_offered(facts: Facts) -> None:
    _chat(facts, tools=[{"type": "custom", "custom": {"name": "run", "format": {"type": "text"}}}])


def functions_are_called_the_old_way(facts: Facts) -> None:
    function = TOOLS[0]["function"]
    fields = _brief(facts, functions=[function], function_call={"name": function["name"]})
    choice = _chat(facts, **fields).choices[0]
    same((choice.finish_reason, choice.message.tool_calls), ("function_call", None))
    same(choice.message.function_call.name, function["name"])
    check_weather(choice.message.function_call.arguments)
    calls = [delta.function_call for delta in _deltas(_streamed(facts, **fields))]
    parts = [call.arguments for call in calls if call is not None]
    same("".join(parts), choice.message.function_call.arguments)
    result: Any = {"role": "function", "name": function["name"], "content": "sunny"}
    again = _chat(facts, **_brief(facts, messages=[USER, choice.message, result]))
    same(again.choices[0].message.content, facts.says)


def embeddings_are_wanted(facts: Facts) -> None:
    _client(facts).embeddings.create(model=facts.model, input="x")
