"""Answers of the whole endpoint that obey what the openai client asks for."""

import re
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.serving.endpoint.served import PROMPT, Served

pytestmark = pytest.mark.ray
USER: Any = [{"role": "user", "content": "hi"}]


class City(BaseModel):
    name: Literal["Rome", "Oslo"]
    visited: bool
    stars: list[Literal[1, 2, 3]] | None


def test_a_class_of_pydantic_is_parsed_from_the_answer(served: Served) -> None:
    for seed, model in enumerate("abc"):
        answer = served.openai.chat.completions.parse(
            model=model, messages=USER, response_format=City, max_tokens=200, seed=seed, top_p=0.9
        )
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(answer.choices[0].message.parsed, City)
            return
    raise AssertionError("no answer ended by itself")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "go"}}])
def test_the_arguments_of_a_strict_tool_are_parsed(served: Served, choice: Any) -> None:
    answer = served.openai.chat.completions.parse(
        model="a",
        messages=USER,
        tools=[openai.pydantic_function_tool(City, name="go")],
        tool_choice=choice,
        parallel_tool_calls=False,
        max_tokens=200,
        seed=1,
        top_p=0.9,
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls"
    assert isinstance(call.function.parsed_arguments, City)


def test_completions_obey_expressions_and_choices_streamed_and_unstreamed(served: Served) -> None:
    def ask(**given: Any) -> Any:
        extra = {"structured_outputs": given, "min_tokens": 9, "ignore_eos": True}
        return {"model": "b", "prompt": PROMPT, "max_tokens": 20, "seed": 4, "extra_body": extra}

    asked = ask(regex="[0-9]{3}-[0-9]{4}")
    answer = served.openai.completions.create(**asked, n=2)
    assert all(re.fullmatch("[0-9]{3}-[0-9]{4}", each.text) for each in answer.choices)
    assert {each.finish_reason for each in answer.choices} == {"stop"}
    stream = served.openai.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text
    either = served.openai.completions.create(**ask(choice=["yes", "no"]))
    assert either.choices[0].text in ("yes", "no")


def test_what_cannot_be_obeyed_is_refused_with_its_part(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {}}}}
    named: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="#/properties/a/not") as refused:
        served.openai.chat.completions.create(model="a", messages=USER, response_format=named)
    assert refused.value.param == "response_format"
