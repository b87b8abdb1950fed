"""Encoder–decoder models over HTTP, by a replica on a fake engine, all in one process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from tokenizers import processors

from serve_app.api.requests.fields import ChatFields, CompletionFields
from serve_app.text.tokenizer import Tokenizer
from tests.serving.asking import ask, complete, refused
from tests.serving.fakes import EOS, World, with_encoders, world
from tests.serving.running import client_of, replica_of, serves
from tests.text.answers.samples import TOOLS
from tests.text.tokenizers import byte_level, sentencepiece_like, writing

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "run", "parameters": TOOLS["run"]}}
FUNCTION = TOOL["function"]
COMPLETION: dict[str, Any] = {
    "model": "a",
    "prompt": [5, 6],
    "max_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "min_p": 0.1,
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "repetition_penalty": 1.2,
    "logit_bias": {"5": 1},
    "seed": 3,
    "n": 2,
    "best_of": 1,
    "logprobs": 2,
    "stop": "x",
    "stop_token_ids": [5],
    "min_tokens": 1,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "stream": True,
    "stream_options": {"include_usage": True},
    "priority": 1,
    "service_tier": "flex",
    "structured_outputs": {"choice": ["the"]},
    "parallel_tool_calls": False,
    "user": "u",
    "metadata": {"a": "b"},
    "prediction": {"type": "content"},
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "store": True,
    "verbosity": "low",
}
"""Each field of a completion that has a meaning, with a value that asks for something."""
CHAT: dict[str, Any] = {
    **{name: value for name, value in COMPLETION.items() if name not in ("prompt", "best_of")},
    "messages": [USER],
    "max_completion_tokens": 3,
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [TOOL],
    "functions": [FUNCTION],
    "response_format": {"type": "json_object"},
    "reasoning_effort": "low",
    "chat_template_kwargs": {"begin": ""},
    "add_generation_prompt": False,
}
"""The same of a chat with a template."""
NEEDS: dict[str, Any] = {"stream_options": {"stream": True}, "top_logprobs": {"logprobs": True}}
WITHOUT_MEANING: dict[str, tuple[dict[str, Any], str, str]] = {
    "echo": ({"echo": True}, "echo", "A prompt cannot be echoed"),
    "echo with logprobs": (
        {"echo": True, "logprobs": 1, "max_tokens": 0},
        "echo",
        "its tokens have no log-probabilities",
    ),
    "continue_final_message": (
        {"continue_final_message": True, "messages": [USER, {**USER, "role": "assistant"}]},
        "continue_final_message",
        "A last message cannot be continued",
    ),
    "tool_choice": (
        {"tools": [TOOL], "tool_choice": "required"},
        "tool_choice",
        "The beginning of a call cannot be given",
    ),
    "function_call": (
        {"functions": [FUNCTION], "function_call": {"name": "run"}},
        "tool_choice",
        "The beginning of a call cannot be given",
    ),
}
"""By field: what asks for it, and what is said."""


def reading(form: str | None = None, **options: Any) -> World:
    """Encoder–decoder models, with a chat template of a response format or without one."""
    made = with_encoders(world("a", **options))
    made.registry.tokenizer = byte_level() if form is None else writing(form)
    return made


def on(made: World, test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            await test(client)

    asyncio.run(run())


def test_every_field_has_a_meaning_or_is_refused() -> None:
    assert CompletionFields.model_fields.keys() - COMPLETION.keys() == {"echo"}
    refused_of_chats = {"continue_final_message", "tool_choice", "function_call"}
    assert ChatFields.model_fields.keys() - CHAT.keys() == refused_of_chats
    assert refused_of_chats | {"echo"} <= WITHOUT_MEANING.keys()

    async def test(client: httpx.AsyncClient) -> None:
        for route, known in {"completions": COMPLETION, "chat/completions": CHAT}.items():
            least = {name: known[name] for name in ("model", "prompt", "messages") if name in known}
            for name, value in known.items():
                body = {**least, name: value, **NEEDS.get(name, {})}
                response = await client.post(f"/v1/{route}", json=body)
                assert response.status_code == 200, (name, response.text)

    on(reading("hermes"), test)


@pytest.mark.parametrize("field", WITHOUT_MEANING)
def test_what_has_no_meaning_is_refused_before_anything_runs(field: str) -> None:
    asked, param, words = WITHOUT_MEANING[field]
    is_chat = "tools" in asked or "functions" in asked or "messages" in asked
    route = "/v1/chat/completions" if is_chat else "/v1/completions"
    body = {"model": "a", **({"messages": [USER]} if is_chat else {"prompt": "the"}), **asked}
    made = reading("hermes")
    message = refused(ask(route, body, made), 400, "unsupported_parameter", param)
    assert words in message
    assert message.endswith("model 'a' reads prompts with its encoder, and its answers begin anew")
    assert made.loop.seen == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [USER]}),
        ("/v1/messages", {"messages": [USER], "max_tokens": 9}),
        ("/v1/responses", {"input": "hi"}),
    ],
)
def test_a_chat_without_a_template_is_sent_to_completions(path: str, body: dict[str, Any]) -> None:
    made = reading()
    response = ask(path, {"model": "a", **body}, made)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "the model has no chat template; use /v1/completions"
    )
    assert made.loop.seen == []


def test_anthropics_last_message_of_the_assistant_is_refused_too() -> None:
    body = {"messages": [USER, {**USER, "role": "assistant"}], "max_tokens": 9, "model": "a"}
    response = ask("/v1/messages", body, reading("hermes"))
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("A last message cannot be continued")


def test_a_prompt_ends_as_the_models_tokenizer_ends_it_and_is_counted_so() -> None:
    """Such tokenizers put an end token after a text, as their models were trained."""
    inner = byte_level()
    inner.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    made = reading()
    made.registry.tokenizer = inner
    plain = Tokenizer(byte_level()).encode("the wolf")
    assert complete({"prompt": "the wolf"}, made)["usage"]["prompt_tokens"] == len(plain) + 1
    assert made.loop.seen[0].prompt == (*plain, EOS)
    assert complete({"prompt": plain}, made)["usage"]["prompt_tokens"] == len(plain)
    assert made.loop.seen[0].prompt == tuple(plain)


def test_an_answer_begins_a_text_of_its_own() -> None:
    """A tokenizer of sentencepiece's kind drops the space that begins a text."""
    inner = sentencepiece_like()
    word = Tokenizer(inner).encode("the")
    texts = []
    for change in (with_encoders, lambda made: made):
        made = change(world("a", answers={"a": [*word, EOS]}))
        made.registry.tokenizer = inner
        texts.append(complete({"prompt": "dog"}, made)["choices"][0]["text"])
    assert texts == ["the", " the"]


def test_what_a_template_ends_with_is_not_the_beginning_of_an_answer() -> None:
    """Such as the marker of reasoning: the encoder has read it."""
    found = []
    for change in (with_encoders, lambda made: made):
        made = change(world("a", answers={"a": [*Tokenizer(writing("think")).encode("yes"), EOS]}))
        made.registry.tokenizer = writing("think")
        body = {"model": "a", "messages": [USER], "chat_template_kwargs": {"begin": "<think>"}}
        found.append(ask("/v1/chat/completions", body, made).json()["choices"][0]["message"])
    assert [message["content"] for message in found] == ["yes", ""]


def test_a_longer_input_than_one_step_computes_is_refused_with_the_limit() -> None:
    made = reading(longest=9)
    body = {"model": "a", "prompt": [5] * 10}
    message = refused(ask("/v1/completions", body, made), 400, "context_length_exceeded", "prompt")
    assert "of at most 9 tokens" in message


def test_the_list_of_models_says_what_each_is() -> None:
    async def test(client: httpx.AsyncClient) -> None:
        card = (await client.get("/v1/models/a")).json()
        kinds.append(card["kind"])

    kinds: list[str] = []
    for made in (reading(), world("a")):
        on(made, test)
    assert kinds == ["encoder-decoder", "decoder"]
