"""The HTTP surface over a replica on a fake engine, all in one process."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve_app.config import Limits, ServeConfig
from tests.serving.fakes import CONTEXT, EOS, TOKENIZER, World, world
from tests.serving.running import client_of, replica_of, serves, until

HELLO = TOKENIZER.encode("jolly wolf")
FOX = "🦊"


def _ask(path: str, body: dict[str, Any], made: World | None = None, **config: Any) -> Any:
    """The response to one request, of a replica of its own."""

    async def run() -> httpx.Response:
        settings = ServeConfig(family="fam", poll_s=0.02, **config)
        async with (
            replica_of(made or world(answers={"a": HELLO}), settings) as replica,
            client_of(replica, settings) as client,
        ):
            await serves(replica, "r1")
            return await client.post(path, json=body)

    return asyncio.run(run())


def _complete(body: dict[str, Any], made: World | None = None, **config: Any) -> Any:
    response = _ask("/v1/completions", {"model": "a", "prompt": "the", **body}, made, **config)
    assert response.status_code == 200, response.text
    return response.json()


def _events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    texts = [line.removeprefix("data: ") for line in lines]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_a_completion_has_openais_form() -> None:
    body = _complete({"max_tokens": len(HELLO)})
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
    body = _complete({"prompt": ["the", "the"], "n": 3, "max_tokens": 2})
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_sixteen_tokens_are_the_default_of_a_completion() -> None:
    made = world(answers={"a": [10]})
    assert _complete({}, made)["usage"]["completion_tokens"] == 16


def test_the_end_token_ends_and_is_not_shown() -> None:
    body = _complete({}, world(answers={"a": [*HELLO, EOS]}))
    assert body["choices"][0]["text"] == "jolly wolf"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == len(HELLO) + 1


def test_ignore_eos_goes_on_after_the_end_token() -> None:
    body = _complete({"ignore_eos": True, "max_tokens": 30}, world(answers={"a": [*HELLO, EOS]}))
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["text"] == "jolly wolf"


def test_special_tokens_are_shown_on_request() -> None:
    made = world(answers={"a": [*HELLO, EOS]})
    options = {"ignore_eos": True, "skip_special_tokens": False, "max_tokens": len(HELLO) + 2}
    assert _complete(options, made)["choices"][0]["text"] == "jolly wolf</s></s>"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_choice_and_is_not_shown(stream: bool) -> None:
    made = world(answers={"a": HELLO})
    response = _ask(
        "/v1/completions",
        {"model": "a", "prompt": "the", "max_tokens": 100, "stop": ["wol"], "stream": stream},
        made,
    )
    if stream:
        choices = [event["choices"][0] for event in _events(response)[:-1]]
        text = "".join(choice["text"] for choice in choices)
    else:
        choices = response.json()["choices"]
        text = choices[0]["text"]
    assert text == "jolly "
    assert choices[-1]["finish_reason"] == "stop"
    assert made.loop.pages == 64
    assert len(made.loop.aborted) == 1


def test_stop_strings_do_not_count_before_min_tokens() -> None:
    body = _complete({"stop": "o", "min_tokens": 8, "max_tokens": len(HELLO)})
    assert body["choices"][0]["text"] == "jolly wolf"


def test_prompts_of_every_kind_are_answered_in_order() -> None:
    made = world(answers={"a": HELLO})
    prompts: list[Any] = ["the", ["the", "dog"], [5, 6], [[5, 6], [7]]]
    for prompt in prompts:
        body = _complete({"prompt": prompt, "n": 2, "max_tokens": 1}, made)
        expected = [0, 1, 2, 3] if prompt in (["the", "dog"], [[5, 6], [7]]) else [0, 1]
        assert [choice["index"] for choice in body["choices"]] == expected
        made.loops.clear()


def test_tokens_are_taken_as_they_are() -> None:
    made = world(answers={"a": HELLO})
    _complete({"prompt": [300, 1, 2, 7]}, made)
    assert made.loop.seen[0].prompt == (300, 1, 2, 7)


def test_choices_have_distinct_seeds_that_follow_from_the_given_one() -> None:
    made = world()
    _complete({"n": 3, "seed": 11, "prompt": ["the", "dog"]}, made)
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
    extra = {"logit_bias": {"5": -100, "6": 1.5}, "stop_token_ids": [9], "priority": 3}
    _complete({**fields, **extra, "min_tokens": 2, "user": "someone"}, made)
    request = made.loop.seen[0]
    for name, value in fields.items():
        assert getattr(request.sampling, name) == value
    assert request.sampling.logit_bias == ((5, -100.0), (6, 1.5))
    assert request.stop_token_ids == {9, EOS}
    assert (request.min_tokens, request.priority, request.tenant) == (2, 3, "default")


def test_echo_with_logprobs_is_exact() -> None:
    prompt = TOKENIZER.encode("jolly €")
    body = _complete({"prompt": [prompt], "echo": True, "logprobs": 1, "max_tokens": 1})
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
    body = _complete({"prompt": HELLO, "echo": True, "logprobs": 0, "max_tokens": 0})
    choice = body["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("jolly wolf", "length")
    assert len(choice["logprobs"]["token_logprobs"]) == len(HELLO)
    assert body["usage"]["completion_tokens"] == 0


def test_echo_without_logprobs_needs_no_engine() -> None:
    made = world()
    body = _complete({"prompt": ["the dog", "the"], "echo": True, "max_tokens": 0}, made)
    assert [choice["text"] for choice in body["choices"]] == ["the dog", "the"]
    assert made.loop.seen == []


def test_the_end_token_has_its_logprob_too() -> None:
    made = world(answers={"a": [EOS]})
    body = _complete({"prompt": HELLO, "echo": True, "logprobs": 1, "max_tokens": 1}, made)
    logprobs = body["choices"][0]["logprobs"]
    assert len(logprobs["token_logprobs"]) == len(HELLO) + 1
    assert body["choices"][0]["text"] == "jolly wolf"


def test_tokens_from_a_stop_string_on_have_no_logprobs() -> None:
    body = _complete({"stop": " ", "logprobs": 0, "max_tokens": 50})
    choice = body["choices"][0]
    assert choice["text"] == "jolly"
    assert "".join(choice["logprobs"]["tokens"]) == "jolly"


def test_a_stream_never_holds_half_a_character() -> None:
    made = world(answers={"a": [*TOKENIZER.encode(FOX * 3), EOS]})
    body = {"model": "a", "prompt": "the", "max_tokens": 100, "stream": True}
    events = _events(_ask("/v1/completions", body, made))
    texts = [event["choices"][0]["text"] for event in events[:-1]]
    assert "".join(texts) == FOX * 3
    assert not any("\ufffd" in text for text in texts)


def test_usage_comes_last_when_asked_for() -> None:
    body = {"model": "a", "prompt": "the", "max_tokens": 3, "stream": True}
    events = _events(_ask("/v1/completions", {**body, "stream_options": {"include_usage": True}}))
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == 3
    assert all(event["usage"] is None for event in events[:-2])
    plain = _events(_ask("/v1/completions", body))
    assert all("usage" not in event for event in plain[:-1])


def _chatty(**generation: Any) -> World:
    from serve_app.text.tokenizer import Tokenizer
    from tests.serving.fakes import source
    from tests.text.tokenizers import byte_level

    inner = byte_level()
    inner.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{{ mood }}"
    )
    made = world(answers={"a": [*HELLO, EOS]})
    made.registry.tokenizer = Tokenizer(inner)
    made.registry.releases["r1"] = source("r1", "a", **generation)
    return made


CHAT: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}


def test_a_chat_has_openais_form() -> None:
    response = _ask(
        "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}, _chatty()
    )
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
    events = _events(_ask("/v1/chat/completions", body, _chatty()))
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
    made = _chatty()
    _ask("/v1/chat/completions", CHAT, made)
    request = made.loop.seen[0]
    assert len(request.prompt) + request.max_tokens == CONTEXT


def test_an_open_length_takes_the_room_that_the_engine_has() -> None:
    made = _chatty()
    made.kv_tokens = 40
    response = _ask("/v1/chat/completions", CHAT, made)
    assert response.status_code == 200
    request = made.loop.seen[0]
    assert len(request.prompt) + request.max_tokens == 40


def test_defaults_are_the_models_own() -> None:
    made = _chatty(do_sample=True, temperature=0.6, top_k=5, max_new_tokens=9, eos_token_id=[7, 8])
    _ask("/v1/chat/completions", CHAT, made)
    request = made.loop.seen[0]
    assert (request.sampling.temperature, request.sampling.top_k) == (0.6, 5)
    assert request.max_tokens == 9
    assert request.stop_token_ids == {7, 8}


@pytest.mark.parametrize(("generation", "temperature"), [({"do_sample": False}, 0.0), ({}, 1.0)])
def test_temperature_follows_do_sample(generation: dict[str, Any], temperature: float) -> None:
    made = _chatty(**generation)
    _ask("/v1/chat/completions", CHAT, made)
    assert made.loop.seen[0].sampling.temperature == temperature


def test_template_variables_reach_the_template() -> None:
    made = _chatty()
    _ask("/v1/chat/completions", {**CHAT, "chat_template_kwargs": {"mood": "!"}}, made)
    assert TOKENIZER.decode(made.loop.seen[0].prompt) == "user: hi\n!"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_a_template_variable_that_is_not_a_clients_is_refused_by_its_field(path: str) -> None:
    error = _ask(path, {**CHAT, "chat_template_kwargs": {"tokenize": True}}).json()["error"]
    assert (error["param"], error["code"]) == ("chat_template_kwargs", None)


def _refused(response: Any, status: int, code: str | None, param: str | None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    return str(error["message"])


def test_an_unknown_model_is_404() -> None:
    response = _ask("/v1/completions", {"model": "zz", "prompt": "the"})
    assert "zz" in _refused(response, 404, "model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_says_so_with_numbers(stream: bool) -> None:
    body = {"model": "a", "prompt": [5] * 120, "max_tokens": 9, "stream": stream}
    message = _refused(_ask("/v1/completions", body), 400, "context_length_exceeded", "prompt")
    assert "128" in message
    assert "129" in message


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    body = {"model": "a", "prompt": [5] * 128}
    _refused(_ask("/v1/completions", body), 400, "context_length_exceeded", "prompt")


def test_the_operators_longest_prompt_holds() -> None:
    body = {"model": "a", "prompt": [5] * 4}
    response = _ask("/v1/completions", body, limits=Limits(prompt_tokens=3))
    _refused(response, 400, "context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [400]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"stop_token_ids": [400]}, "stop_token_ids"),
        ({"logit_bias": {"400": 1}}, "logit_bias"),
    ],
)
def test_tokens_outside_the_vocabulary_and_empty_prompts_are_refused(
    fields: dict[str, Any], param: str
) -> None:
    body = {"model": "a", "prompt": "the", **fields}
    _refused(_ask("/v1/completions", body), 400, None, param)


def test_a_model_without_a_template_refuses_chats() -> None:
    _refused(_ask("/v1/chat/completions", CHAT), 400, None, "messages")


def test_tokenize_and_detokenize_are_inverse() -> None:
    response = _ask("/tokenize", {"model": "a", "prompt": "jolly wolf"})
    assert response.json() == {"tokens": HELLO, "count": len(HELLO), "max_model_len": CONTEXT}
    response = _ask("/detokenize", {"model": "a", "tokens": HELLO})
    assert response.json() == {"prompt": "jolly wolf"}
    response = _ask("/tokenize", CHAT, _chatty())
    assert response.json()["tokens"] == TOKENIZER.encode("user: hi\n")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {"model": "zz", "prompt": "x"}, 404),
        ("/tokenize", {"model": "a"}, 400),
        ("/tokenize", {"model": "a", "messages": [{"role": "user", "content": "x"}]}, 400),
        ("/detokenize", {"model": "zz", "tokens": []}, 404),
        ("/detokenize", {"model": "a", "tokens": [400]}, 400),
        ("/detokenize", {"model": "a", "tokens": ["x"]}, 400),
    ],
)
def test_texts_that_cannot_be_turned_are_refused(
    path: str, body: dict[str, Any], status: int
) -> None:
    assert _ask(path, body).status_code == status


def test_the_catalogue_lists_the_models() -> None:
    async def run() -> None:
        async with replica_of(world("b", "a")) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            listed = (await client.get("/v1/models")).json()
            assert listed["object"] == "list"
            assert [card["id"] for card in listed["data"]] == ["a", "b"]
            card = (await client.get("/v1/models/b")).json()
            assert card["object"] == "model"
            assert (card["owned_by"], card["created"], card["release"]) == ("fam", 1234, "r1")
            _refused(await client.get("/v1/models/c"), 404, "model_not_found", "model")

    asyncio.run(run())


def test_nothing_is_ready_before_a_release_serves() -> None:
    async def run() -> None:
        made = world()
        made.registry.channels.clear()
        async with replica_of(made) as replica, client_of(replica) as client:
            assert (await client.get("/health")).status_code == 200
            for response in (
                await client.get("/ready"),
                await client.get("/v1/models"),
                await client.post("/v1/completions", json={"model": "a", "prompt": "x"}),
                await client.post("/tokenize", json={"model": "a", "prompt": "x"}),
            ):
                _refused(response, 503, "loading", None)
                assert int(response.headers["retry-after"]) >= 1
            made.registry.channels["stable"] = "r1"
            await serves(replica, "r1")
            ready = await client.get("/ready")
            assert (ready.status_code, ready.json()["release"]) == (200, "r1")

    asyncio.run(run())


def test_too_many_open_choices_are_429_with_retry_after() -> None:
    body = {"model": "a", "prompt": "the", "n": 3}
    assert _ask("/v1/completions", body, world(), max_open_choices=3).status_code == 200
    response = _ask("/v1/completions", body, world(), max_open_choices=2)
    _refused(response, 429, "server_overloaded", None)
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert int(response.headers["retry-after"]) >= 1


def test_an_engine_that_fails_in_mid_stream_is_one_error_event() -> None:
    async def run() -> list[Any]:
        made = world(answers={"a": HELLO}, manual=True)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            body = {"model": "a", "prompt": "the", "max_tokens": 9, "stream": True}
            asking = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: bool(made.loop.seen))
            made.loop.step()
            await asyncio.sleep(0.05)
            made.loop.fail_requests = True
            made.loop.step()
            return _events(await asking)

    events = asyncio.run(run())
    assert events[0]["choices"][0]["text"]
    assert events[-1]["error"]["code"] == "internal_error"
    assert len(events) == 2


def test_an_engine_that_fails_at_once_is_500() -> None:
    async def run() -> httpx.Response:
        made = world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            made.loop.fail_requests = True
            return await client.post("/v1/completions", json={"model": "a", "prompt": "the"})

    response = asyncio.run(run())
    _refused(response, 500, "internal_error", None)
    assert "step" not in response.text


def test_metrics_count_what_happened() -> None:
    async def run() -> str:
        async with replica_of(world(answers={"a": HELLO})) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            body = {"model": "a", "prompt": "the", "max_tokens": 5}
            await client.post("/v1/completions", json=body)
            await client.post("/v1/completions", json={**body, "model": "zz"})
            return (await client.get("/metrics")).text

    text = asyncio.run(run())
    labels = 'model_name="a",release="r1",tenant="default"'
    for idle in ("running", "waiting"):  # a gauge that goes away at rest cannot be watched
        assert f'expertpool_num_requests_{idle}{{model_name="b"}} 0.0' in text
    assert f"expertpool_generation_tokens_total{{{labels}}} 5.0" in text
    assert f"expertpool_time_to_first_token_seconds_count{{{labels}}} 1.0" in text
    assert f"expertpool_inter_token_latency_seconds_count{{{labels}}} 4.0" in text
    for stage in ("queue", "prefill", "decode"):
        assert f"expertpool_request_{stage}_time_seconds_count{{{labels}}} 1.0" in text
    assert 'expertpool_request_success_total{finished_reason="length",' in text
    assert 'expertpool_request_errors_total{status="404"} 1.0' in text
    assert 'expertpool_release_info{release="r1"} 1.0' in text
    assert "expertpool_turns_total 3.0" in text
    assert "expertpool_free_pages 64.0" in text
