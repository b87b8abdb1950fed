"""`/v1/messages` by the anthropic client."""

import asyncio
from typing import Any

import anthropic

from tests.clients.calling import Facts
from tests.clients.questions import (
    FUNCTION,
    LENGTH,
    LONGEST,
    PARAMETERS,
    USER,
    check_weather,
    holds,
    raises,
    reached_as_anthropics,
    same,
    stop_in,
)

TOOL: Any = {
    "name": FUNCTION["name"],
    "description": FUNCTION["description"],
    "input_schema": PARAMETERS,
}


def _client(facts: Facts, **change: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(**reached_as_anthropics(facts, **change))


def _asked(facts: Facts, **change: Any) -> dict[str, Any]:
    """The client has no field of its own for `temperature` any more; the protocol has it."""
    asked = {"model": facts.model, "messages": [USER], "max_tokens": LENGTH}
    body = {"temperature": 0, **change.pop("extra_body", {})}
    return {**asked, "extra_body": body, **change}


def _message(facts: Facts, **change: Any) -> Any:
    return _client(facts).messages.create(**_asked(facts, **change))


def _text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def a_message_is_answered(facts: Facts) -> None:
    answer = _message(facts)
    same((answer.type, answer.role, answer.model), ("message", "assistant", facts.model))
    same(answer.stop_reason, "max_tokens")
    same(answer.usage.output_tokens, LENGTH)
    holds(_text(answer) and answer.usage.input_tokens > 0, answer)


def an_answer_ends_by_itself(facts: Facts) -> None:
    answer = _message(facts, model=facts.brief, max_tokens=LONGEST)
    same((_text(answer), answer.stop_reason), (facts.says, "end_turn"))
    same(answer.stop_sequence, None)


def a_stream_joined_is_the_answer(facts: Facts) -> None:
    whole = _message(facts)
    events = list(_message(facts, stream=True))
    same(events[0].type, "message_start")
    same([event.type for event in events[-2:]], ["message_delta", "message_stop"])
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    same("".join(delta.text for delta in deltas if delta.type == "text_delta"), _text(whole))
    same(events[-2].usage.output_tokens, LENGTH)


def the_helper_for_streams_gives_the_answer(facts: Facts) -> None:
    with _client(facts).messages.stream(**_asked(facts)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    same(text, _text(final))
    same(text, _text(_message(facts)))


def the_asynchronous_client_asks_many(facts: Facts) -> None:
    async def run() -> list[str]:
        async with anthropic.AsyncAnthropic(**reached_as_anthropics(facts)) as client:

            async def one() -> str:
                return _text(await client.messages.create(**_asked(facts)))

            async def streamed() -> str:
                async with client.messages.stream(**_asked(facts)) as stream:
                    return _text(await stream.get_final_message())

            return list(await asyncio.gather(one(), streamed(), one()))

    texts = asyncio.run(run())
    same(set(texts), {_text(_message(facts))})


def system_and_blocks_are_read(facts: Facts) -> None:
    blocks: Any = [
        {"type": "text", "text": USER["content"], "cache_control": {"type": "ephemeral"}}
    ]
    system: Any = [{"type": "text", "text": "Be brief."}]
    given = _message(facts, system=system, messages=[{"role": "user", "content": blocks}])
    same(_text(given), _text(_message(facts, system="Be brief.")))


def a_stop_sequence_ends_an_answer(facts: Facts) -> None:
    stop = stop_in(facts.says)
    answer = _message(facts, model=facts.brief, stop_sequences=[stop])
    same((answer.stop_reason, answer.stop_sequence), ("stop_sequence", stop))
    same(_text(answer), facts.says.partition(stop)[0])


def a_tool_is_used_and_its_result_read(facts: Facts) -> None:
    fields: Any = {
        "model": facts.brief,
        "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "get_weather"},
        "max_tokens": LONGEST,
    }
    answer = _message(facts, **fields)
    [use] = [block for block in answer.content if block.type == "tool_use"]
    same((use.name, answer.stop_reason), ("get_weather", "tool_use"))
    check_weather(use.input)
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    said = {"role": "assistant", "content": [block.to_dict() for block in answer.content]}
    history = [USER, said, {"role": "user", "content": [result]}]
    again = _message(facts, model=facts.brief, messages=history, tools=[TOOL])
    same((_text(again), again.stop_reason), (facts.says, "end_turn"))
    with _client(facts).messages.stream(**_asked(facts, **fields)) as stream:
        final: Any = stream.get_final_message()
    same(final.content[-1].input, use.input)


def a_tool_is_used_where_one_must_be(facts: Facts) -> None:
    answer = _message(
        facts,
        model=facts.brief,
        tools=[TOOL],
        tool_choice={"type": "any"},
        max_tokens=LONGEST,
    )
    same([block.type for block in answer.content], ["tool_use"])
    check_weather(answer.content[0].input)


def an_answer_fits_its_schema(facts: Facts) -> None:
    form = {"type": "json_schema", "schema": PARAMETERS}
    fields: Any = {"output_config": {"format": form}, "max_tokens": LONGEST}
    answer = _message(facts, model=facts.brief, **fields)
    same(answer.stop_reason, "end_turn")
    check_weather(_text(answer))


def thoughts_are_a_block(facts: Facts) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    fields: Any = {"thinking": thinking, "max_tokens": 1100}
    answer = _message(facts, model=facts.brief, **fields)
    same(answer.content[0].type, "thinking")
    same(answer.content[0].thinking, facts.says)


def tokens_are_counted(facts: Facts) -> None:
    count = _client(facts).messages.count_tokens(model=facts.model, messages=[USER])
    usage = _message(facts).usage
    same(count.input_tokens, usage.input_tokens + usage.cache_read_input_tokens)
    more = _client(facts).messages.count_tokens(model=facts.model, messages=[USER], tools=[TOOL])
    holds(more.input_tokens > count.input_tokens, more)


def fields_that_change_nothing_are_taken(facts: Facts) -> None:
    answer = _message(facts, metadata={"user_id": "ann"}, service_tier="auto")
    same(answer.usage.output_tokens, LENGTH)


def errors_are_the_clients_own(facts: Facts) -> None:
    raises(anthropic.NotFoundError, lambda: _message(facts, model="nobody"))
    hot = {"temperature": 9}
    error = raises(anthropic.BadRequestError, lambda: _message(facts, extra_body=hot))
    same((error.body["type"], error.body["error"]["type"]), ("error", "invalid_request_error"))
    nobody = _client(facts, api_key="sk-nobody")
    raises(anthropic.AuthenticationError, lambda: nobody.messages.create(**_asked(facts)))
    raises(anthropic.BadRequestError, lambda: _message(facts, extra_body={"max_token": 5}))


def a_picture_is_sent(facts: Facts) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    _message(facts, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])


def the_web_is_to_be_searched(facts: Facts) -> None:
    _message(facts, tools=[{"type": "web_search_20250305", "name": "web_search"}])


def batches_are_wanted(facts: Facts) -> None:
    _client(facts).messages.batches.list()
