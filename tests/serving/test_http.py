"""Completions over HTTP, by a replica on a fake engine, all in one process."""

from dataclasses import replace
from typing import Any

import pytest

from serve_app.service_class import ServiceClass
from serve_app.tenants.keyring import ANYBODY
from serve_app.tenants.keys_file import Tenant
from tests.serving.asking import HELLO, ask, complete, said
from tests.serving.fakes import EOS, TOKENIZER, world

FOX = "🦊"


def test_a_completion_has_openais_form() -> None:
    body = complete({"max_tokens": len(HELLO)})
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"], body["created"]) == ("text_completion", "a", 1000)
    assert body["system_fingerprint"] == "r1"
    assert body["choices"] == [
        {"index": 0, "text": "jolly wolf", "logprobs": None, "finish_reason": "length"}
    ]
    prompt = len(TOKENIZER.encode("the"))
    assert body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": len(HELLO),
        "total_tokens": prompt + len(HELLO),
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_tokens_that_were_found_computed_are_counted_once_a_prompt() -> None:
    body = complete({"prompt": ["the", "the"], "n": 3, "max_tokens": 2})
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_sixteen_tokens_are_the_default_of_a_completion() -> None:
    made = world(answers={"a": [10]})
    assert complete({}, made)["usage"]["completion_tokens"] == 16


def test_the_end_token_ends_and_is_not_shown() -> None:
    body = complete({}, world(answers={"a": [*HELLO, EOS]}))
    assert body["choices"][0]["text"] == "jolly wolf"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == len(HELLO) + 1


def test_ignore_eos_goes_on_after_the_end_token() -> None:
    body = complete({"ignore_eos": True, "max_tokens": 30}, world(answers={"a": [*HELLO, EOS]}))
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["text"] == "jolly wolf"


def test_special_tokens_are_shown_on_request() -> None:
    made = world(answers={"a": [*HELLO, EOS]})
    options = {"ignore_eos": True, "skip_special_tokens": False, "max_tokens": len(HELLO) + 2}
    assert complete(options, made)["choices"][0]["text"] == "jolly wolf</s></s>"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_choice_and_is_not_shown(stream: bool) -> None:
    made = world(answers={"a": HELLO})
    response = ask(
        "/v1/completions",
        {"model": "a", "prompt": "the", "max_tokens": 100, "stop": ["wol"], "stream": stream},
        made,
    )
    if stream:
        choices = [event["choices"][0] for event in said(response)[:-1]]
        text = "".join(choice["text"] for choice in choices)
    else:
        choices = response.json()["choices"]
        text = choices[0]["text"]
    assert text == "jolly "
    assert choices[-1]["finish_reason"] == "stop"
    assert made.loop.pages == 64
    assert len(made.loop.aborted) == 1


def test_stop_strings_do_not_count_before_min_tokens() -> None:
    body = complete({"stop": "o", "min_tokens": 8, "max_tokens": len(HELLO)})
    assert body["choices"][0]["text"] == "jolly wolf"


def test_prompts_of_every_kind_are_answered_in_order() -> None:
    made = world(answers={"a": HELLO})
    prompts: list[Any] = ["the", ["the", "dog"], [5, 6], [[5, 6], [7]]]
    for prompt in prompts:
        body = complete({"prompt": prompt, "n": 2, "max_tokens": 1}, made)
        expected = [0, 1, 2, 3] if prompt in (["the", "dog"], [[5, 6], [7]]) else [0, 1]
        assert [choice["index"] for choice in body["choices"]] == expected
        made.loops.clear()


def test_tokens_are_taken_as_they_are() -> None:
    made = world(answers={"a": HELLO})
    complete({"prompt": [300, 1, 2, 7]}, made)
    assert made.loop.seen[0].prompt == (300, 1, 2, 7)


def test_choices_have_distinct_seeds_that_follow_from_the_given_one() -> None:
    made = world()
    complete({"n": 3, "seed": 11, "prompt": ["the", "dog"]}, made)
    seeds = [request.sampling.seed for request in made.loop.seen]
    assert seeds[0] == 11
    assert len(set(seeds[:3])) == 3
    assert seeds[:3] == seeds[3:]


def test_sampling_fields_reach_the_engine() -> None:
    made = world()
    fields = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "presence_penalty": 1,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.25,
    }
    extra = {
        "logit_bias": {"5": -100, "6": 1.5},
        "stop_token_ids": [9],
        "priority": 3,
        "service_tier": "flex",
    }
    complete({**fields, **extra, "min_tokens": 2, "user": "someone"}, made)
    request = made.loop.seen[0]
    for name, value in fields.items():
        assert getattr(request.sampling, name) == value
    assert request.sampling.logit_bias == ((5, -100.0), (6, 1.5))
    assert request.stop_token_ids == {9, EOS}
    assert (request.min_tokens, request.priority, request.tenant) == (2, 3, "default")
    assert request.service_class is ServiceClass.BATCH


def test_the_tenant_and_its_weight_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = replace(ANYBODY, name="large", tenant=Tenant(weight=3.0))
    monkeypatch.setattr("serve_app.api.access.ANYBODY", caller)
    made = world()
    complete({}, made)
    assert (made.loop.seen[0].tenant, made.loop.seen[0].weight) == ("large", 3.0)


def test_echo_with_logprobs_is_exact() -> None:
    prompt = TOKENIZER.encode("jolly €")
    body = complete({"prompt": [prompt], "echo": True, "logprobs": 1, "max_tokens": 1})
    choice = body["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"] == "jolly €j"
    tokens = [*prompt, HELLO[0]]
    assert logprobs["tokens"] == [TOKENIZER.readable(token) for token in tokens]
    assert logprobs["token_logprobs"][:3] == [None, -0.5, -1.0]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["top_logprobs"][1] == {logprobs["tokens"][1]: -0.5}
    assert len(logprobs["text_offset"]) == len(tokens)
    for offset, token in zip(logprobs["text_offset"], logprobs["tokens"], strict=True):
        assert token.startswith("bytes:") or choice["text"][offset:].startswith(token)


def test_echo_of_the_prompt_alone_gives_its_logprobs() -> None:
    body = complete({"prompt": HELLO, "echo": True, "logprobs": 0, "max_tokens": 0})
    choice = body["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("jolly wolf", "length")
    assert len(choice["logprobs"]["token_logprobs"]) == len(HELLO)
    assert body["usage"]["completion_tokens"] == 0


def test_echo_without_logprobs_needs_no_engine() -> None:
    made = world()
    body = complete({"prompt": ["the dog", "the"], "echo": True, "max_tokens": 0}, made)
    assert [choice["text"] for choice in body["choices"]] == ["the dog", "the"]
    assert made.loop.seen == []


def test_the_end_token_has_its_logprob_too() -> None:
    made = world(answers={"a": [EOS]})
    body = complete({"prompt": HELLO, "echo": True, "logprobs": 1, "max_tokens": 1}, made)
    logprobs = body["choices"][0]["logprobs"]
    assert len(logprobs["token_logprobs"]) == len(HELLO) + 1
    assert body["choices"][0]["text"] == "jolly wolf"


def test_tokens_from_a_stop_string_on_have_no_logprobs() -> None:
    body = complete({"stop": " ", "logprobs": 0, "max_tokens": 50})
    choice = body["choices"][0]
    assert choice["text"] == "jolly"
    assert "".join(choice["logprobs"]["tokens"]) == "jolly"


def test_a_stream_never_holds_half_a_character() -> None:
    made = world(answers={"a": [*TOKENIZER.encode(FOX * 3), EOS]})
    body = {"model": "a", "prompt": "the", "max_tokens": 100, "stream": True}
    events = said(ask("/v1/completions", body, made))
    texts = [event["choices"][0]["text"] for event in events[:-1]]
    assert "".join(texts) == FOX * 3
    assert not any("\ufffd" in text for text in texts)


def test_usage_comes_last_when_asked_for() -> None:
    body = {"model": "a", "prompt": "the", "max_tokens": 3, "stream": True}
    events = said(ask("/v1/completions", {**body, "stream_options": {"include_usage": True}}))
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 3
    assert all(event["usage"] is None for event in events[:-2])
    plain = said(ask("/v1/completions", body))
    assert all("usage" not in event for event in plain[:-1])
