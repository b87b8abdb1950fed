"""Responses of the whole endpoint for real, asked by the openai client."""

from typing import Any

import pytest

from tests.api.responses.events import output_of, replayed, strictly
from tests.serving.endpoint.served import MODELS, Served

pytestmark = pytest.mark.ray
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": PARAMETERS},
}


@pytest.mark.parametrize("model", MODELS)
def test_a_response_is_the_answer_of_the_chat_that_it_stands_for(
    served: Served, model: str
) -> None:
    limits: Any = {"model": model, "temperature": 0.8, "extra_body": {"seed": 7, "top_k": 20}}
    chat = served.openai.chat.completions.create(
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        max_tokens=10,
        **limits,
    )
    asked: Any = {"instructions": "be brief", "input": "hi", "max_output_tokens": 10, **limits}
    response = served.openai.responses.create(**asked)
    strictly(response)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert getattr(response, "system_fingerprint", None) == served.first
    events = list(served.openai.responses.create(**asked, stream=True))
    for event in events:
        strictly(event)
    assert "".join(item["text"] for item in replayed(events)) == response.output_text


def test_a_call_that_is_required_is_that_of_the_chat(served: Served) -> None:
    limits: Any = {"model": "a", "temperature": 0}
    chat = served.openai.chat.completions.create(
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=12,
        tools=[CHAT_TOOL],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        **limits,
    )
    named = {"type": "function", "name": "get_weather"}
    tools: Any = {"tools": [TOOL], "tool_choice": named}
    asked: Any = {"input": "hi", "max_output_tokens": 12, **tools, **limits}
    response = served.openai.responses.create(**asked)
    events = list(served.openai.responses.create(**asked, stream=True))
    called = [
        call.function.arguments
        for call in chat.choices[0].message.tool_calls or ()
        if call.type == "function"
    ]
    output = output_of(response)
    assert called
    assert [item["text"] for item in output if item["type"] == "function_call"] == called
    assert [(each["type"], each["text"]) for each in replayed(events)] == [
        (each["type"], each["text"]) for each in output
    ]
