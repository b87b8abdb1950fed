"""Chats over HTTP, by a replica on a fake engine, all in one process."""

from typing import Any

import pytest

from tests.serving.asking import CHAT, ask, chatty, said
from tests.serving.fakes import CONTEXT, TOKENIZER


def test_a_chat_has_openais_form() -> None:
    response = ask("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}, chatty())
    body = response.json()
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "jolly wolf", "refusal": None}
    assert choice["finish_reason"] == "stop"
    first = choice["logprobs"]["content"][0]
    assert first["token"] == "j"
    assert first["bytes"] == [ord("j")]
    assert len(first["top_logprobs"]) == 2


def test_a_chat_stream_begins_with_the_role() -> None:
    body = {**CHAT, "stream": True, "n": 2}
    events = said(ask("/v1/chat/completions", body, chatty()))
    assert [event["choices"][0]["index"] for event in events[:2]] == [0, 1]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[0]["object"] == "chat.completion.chunk"
    deltas = [event["choices"][0] for event in events[2:-1]]
    for index in (0, 1):
        mine = [delta for delta in deltas if delta["index"] == index]
        assert "".join(delta["delta"].get("content", "") for delta in mine) == "jolly wolf"
        assert (mine[-1]["delta"], mine[-1]["finish_reason"]) == ({}, "stop")
    assert events[-1] == "[DONE]"


def test_a_chat_may_fill_the_rest_of_the_context() -> None:
    made = chatty()
    ask("/v1/chat/completions", CHAT, made)
    request = made.loop.seen[0]
    assert len(request.prompt) + request.max_tokens == CONTEXT


def test_an_open_length_takes_the_room_that_the_engine_has() -> None:
    made = chatty()
    made.kv_tokens = 40
    response = ask("/v1/chat/completions", CHAT, made)
    assert response.status_code == 200
    request = made.loop.seen[0]
    assert len(request.prompt) + request.max_tokens == 40


def test_defaults_are_the_models_own() -> None:
    made = chatty(do_sample=True, temperature=0.6, top_k=5, max_new_tokens=9, eos_token_id=[7, 8])
    ask("/v1/chat/completions", CHAT, made)
    request = made.loop.seen[0]
    assert (request.sampling.temperature, request.sampling.top_k) == (0.6, 5)
    assert request.max_tokens == 9
    assert request.stop_token_ids == {7, 8}


@pytest.mark.parametrize(("generation", "temperature"), [({"do_sample": False}, 0.0), ({}, 1.0)])
def test_temperature_follows_do_sample(generation: dict[str, Any], temperature: float) -> None:
    made = chatty(**generation)
    ask("/v1/chat/completions", CHAT, made)
    assert made.loop.seen[0].sampling.temperature == temperature


def test_template_variables_reach_the_template() -> None:
    made = chatty()
    ask("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {"mood": "!"}}, made)
    assert TOKENIZER.decode(made.loop.seen[0].prompt) == "user: hi\n!"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_template_variable_that_is_not_a_clients_is_refused_by_its_field(path: str) -> None:
    error = ask(path, {**CHAT, "chat_template_kwargs": {"tokenize": True}}).json()["error"]
    assert (error["param"], error["code"]) == ("chat_template_kwargs", None)
