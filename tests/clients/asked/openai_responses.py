"""`/v1/responses` by the openai client."""

from typing import Any

import openai
import pydantic

from tests.clients.calling import Facts
from tests.clients.questions import (
    FUNCTION,
    LENGTH,
    LONGEST,
    PARAMETERS,
    check_weather,
    holds,
    raises,
    reached,
    same,
)

TOOL: Any = {"type": "function", **FUNCTION, "strict": True}


class Weather(pydantic.BaseModel):
    days: int = pydantic.Field(ge=1, le=3)
    sunny: bool


def _client(facts: Facts) -> openai.OpenAI:
    return openai.OpenAI(**reached(facts))


def _asked(facts: Facts, **change: Any) -> dict[str, Any]:
    asked = {
        "model": facts.model,
        "input": "What is the weather in Paris?",
        "max_output_tokens": LENGTH,
        "temperature": 0,
        "store": False,
    }
    return {**asked, **change}


def _brief(facts: Facts, **change: Any) -> dict[str, Any]:
    """Of whom a response must be complete."""
    return {"model": facts.brief, "max_output_tokens": LONGEST, **change}


def _respond(facts: Facts, **change: Any) -> Any:
    return _client(facts).responses.create(**_asked(facts, **change))


def a_response_is_made(facts: Facts) -> None:
    answer = _respond(facts)
    same((answer.object, answer.status, answer.model), ("response", "incomplete", facts.model))
    same(answer.incomplete_details.reason, "max_output_tokens")
    same(answer.output[0].type, "message")
    holds(answer.output_text, answer)
    same(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens)
    same(answer.usage.output_tokens, LENGTH)
    same(answer.store, False)


def a_stream_joined_is_the_response(facts: Facts) -> None:
    whole = _respond(facts)
    events = list(_respond(facts, stream=True))
    kinds = [event.type for event in events]
    same(kinds[:2], ["response.created", "response.in_progress"])
    same(kinds[-1], "response.incomplete")
    same([event.sequence_number for event in events], list(range(len(events))))
    parts = [event.delta for event in events if event.type == "response.output_text.delta"]
    same("".join(parts), whole.output_text)
    same(events[-1].response.output_text, whole.output_text)
    same(events[-1].response.usage.output_tokens, LENGTH)


def the_helper_for_streams_gives_the_response(facts: Facts) -> None:
    with _client(facts).responses.stream(**_asked(facts, **_brief(facts))) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    same((final.status, final.output_text), ("completed", facts.says))


def instructions_and_messages_are_the_same_as_a_chat(facts: Facts) -> None:
    messages = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and?"},
    ]
    answer = _respond(facts, instructions="Be brief.", input=messages)
    chat = _client(facts).chat.completions.create(
        model=facts.model,
        temperature=0,
        max_tokens=LENGTH,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "and?"},
        ],
    )
    same(answer.output_text, chat.choices[0].message.content)


def a_function_is_called_and_its_result_read(facts: Facts) -> None:
    named = {"type": "function", "name": "get_weather"}
    fields = _brief(facts, tools=[TOOL], tool_choice=named)
    answer = _respond(facts, **fields)
    [call] = [item for item in answer.output if item.type == "function_call"]
    same((call.name, answer.status), ("get_weather", "completed"))
    check_weather(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    history = [{"role": "user", "content": "hi"}, call.to_dict(), result]
    again = _respond(facts, **_brief(facts, input=history, tools=[TOOL]))
    same((again.output_text, again.status), (facts.says, "completed"))
    events = list(_respond(facts, **fields, stream=True))
    parts = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    same("".join(parts), call.arguments)


def a_function_is_called_where_one_must_be(facts: Facts) -> None:
    answer = _respond(facts, **_brief(facts, tools=[TOOL], tool_choice="required"))
    same(([item.type for item in answer.output], answer.status), (["function_call"], "completed"))


def reasoning_is_an_item(facts: Facts) -> None:
    answer = _respond(facts, reasoning={"effort": "low"})
    holds("reasoning" in [item.type for item in answer.output], answer)
    kinds = {event.type for event in _respond(facts, reasoning={"effort": "low"}, stream=True)}
    holds(any("reasoning" in kind for kind in kinds), kinds)


def a_response_fits_its_schema(facts: Facts) -> None:
    form = {"type": "json_schema", "name": "weather", "schema": PARAMETERS, "strict": True}
    answer = _respond(facts, **_brief(facts, text={"format": form}))
    same(answer.status, "completed")
    check_weather(answer.output_text)


def a_class_is_read_from_a_response(facts: Facts) -> None:
    answer = _client(facts).responses.parse(**_asked(facts, **_brief(facts)), text_format=Weather)
    holds(isinstance(answer.output_parsed, Weather), answer)


def fields_that_change_nothing_are_taken(facts: Facts) -> None:
    answer = _respond(
        facts,
        metadata={"a": "b"},
        user="ann",
        safety_identifier="ann",
        prompt_cache_key="k",
        service_tier="auto",
        parallel_tool_calls=True,
        truncation="disabled",
        include=["reasoning.encrypted_content"],
        text={"format": {"type": "text"}, "verbosity": "low"},
    )
    same(answer.status, "incomplete")


def errors_are_the_clients_own(facts: Facts) -> None:
    raises(openai.NotFoundError, lambda: _respond(facts, model="nobody"), code="model_not_found")
    raises(openai.BadRequestError, lambda: _respond(facts, temperature=9), param="temperature")
    raises(openai.BadRequestError, lambda: _respond(facts, extra_body={"max_token": 5}))


def a_response_that_was_stored_goes_on(facts: Facts) -> None:
    _respond(facts, previous_response_id="resp_1")


def a_response_is_wanted_again(facts: Facts) -> None:
    _client(facts).responses.retrieve("resp_1")


def a_response_is_made_in_the_background(facts: Facts) -> None:
    _respond(facts, background=True)


def the_web_is_to_be_searched(facts: Facts) -> None:
    _respond(facts, tools=[{"type": "web_search"}])


def a_picture_is_sent(facts: Facts) -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
    _respond(facts, input=[{"role": "user", "content": [picture]}])
