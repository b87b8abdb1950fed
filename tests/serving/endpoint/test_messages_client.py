"""The whole endpoint for real, asked by the anthropic client."""

import json
from typing import Any

import anthropic
import pytest

from tests.serving.endpoint.served import MODELS, Served
from tests.serving.family import TOKENIZER, text_after

pytestmark = pytest.mark.ray
USER: Any = {"role": "user", "content": "hi"}
GREEDY = {"temperature": 0}
"""The client has no field for it; the protocol does."""
RUN: Any = {"name": "run", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
def client(served: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.address, api_key="none", max_retries=0, timeout=60)


def test_a_message_and_its_stream_are_what_the_original_writes(
    served: Served, client: anthropic.Anthropic
) -> None:
    asked: Any = {"model": "a", "messages": [USER], "max_tokens": 10, "extra_body": GREEDY}
    prompt = TOKENIZER.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    expected = text_after(prompt, served.family.generate("a", prompt, 10))
    message = client.messages.create(**asked)
    assert "".join(block.text for block in message.content if block.type == "text") == expected
    usage = message.usage
    counted = client.messages.count_tokens(model="a", messages=[USER]).input_tokens
    assert counted == len(prompt) == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == expected
        final = stream.get_final_message()
    assert final.to_dict()["content"] == message.to_dict()["content"]
    assert (final.stop_reason, final.usage.output_tokens) == (
        message.stop_reason,
        usage.output_tokens,
    )


def test_a_call_is_made_streamed_and_unstreamed_and_its_result_is_read(
    client: anthropic.Anthropic,
) -> None:
    asked: Any = {
        "model": "a",
        "messages": [USER],
        "tools": [RUN],
        "tool_choice": {"type": "tool", "name": "run"},
        "max_tokens": 12,
        "extra_body": GREEDY,
    }
    message = client.messages.create(**asked)
    [use] = [block for block in message.content if block.type == "tool_use"]
    with client.messages.stream(**asked) as stream:
        [same] = [each for each in stream.get_final_message().content if each.type == "tool_use"]
    assert (same.name, same.input) == (use.name, use.input)
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": json.dumps(5)}
    asked["messages"] += [
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    asked["tool_choice"] = {"type": "auto"}
    assert client.messages.create(**asked).usage.output_tokens


def test_errors_are_those_of_the_client(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="nobody", messages=[USER], max_tokens=5)
    assert caught.value.type == "not_found_error"
    assert caught.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="context"):
        client.messages.create(model="a", messages=[USER], max_tokens=5000)
    assert [model.id for model in client.models.list()] == list(MODELS)
