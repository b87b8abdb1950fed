"""The whole endpoint for real, asked by the openai client."""

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import openai
import pytest

from tests.serving.endpoint.served import CONTEXT, MODELS, PROMPT, TOKENS, Served, until
from tests.serving.family import FAMILY, TOKENIZER, text_after
from tests.serving.metric_pages import of_one

pytestmark = pytest.mark.ray


def test_every_model_is_listed(served: Served) -> None:
    assert [model.id for model in served.openai.models.list()] == list(MODELS)
    assert served.openai.models.retrieve("b").id == "b"


def test_all_models_at_once_answer_as_their_originals_do(served: Served) -> None:
    def ask(model: str) -> Any:
        return served.openai.completions.create(
            model=model, prompt=PROMPT, max_tokens=12, temperature=0
        )

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, MODELS * 2))
    for model, answer in zip(MODELS * 2, answers, strict=True):
        expected = served.family.generate(model, TOKENS, 12)
        assert answer.choices[0].text == text_after(TOKENS, expected)
        assert answer.system_fingerprint == served.first
        assert answer.usage.prompt_tokens == len(TOKENS)
        assert answer.usage.completion_tokens == len(expected)


def test_streams_give_the_same_text(served: Served) -> None:
    async def ask(client: openai.AsyncOpenAI, model: str) -> tuple[str, int]:
        stream = await client.completions.create(
            model=model,
            prompt=PROMPT,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, tokens = "", 0
        async for chunk in stream:
            text += "".join(choice.text for choice in chunk.choices)
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        return text, tokens

    async def run() -> list[tuple[str, int]]:
        async with openai.AsyncOpenAI(
            base_url=f"{served.address}/v1", api_key="none", max_retries=0
        ) as client:
            return await asyncio.gather(*(ask(client, model) for model in MODELS))

    for model, (text, tokens) in zip(MODELS, asyncio.run(run()), strict=True):
        expected = served.family.generate(model, TOKENS, 12)
        assert (text, tokens) == (text_after(TOKENS, expected), len(expected))


def test_a_chat_is_answered_from_the_models_template(served: Served) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    prompt = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    expected = served.family.generate("a", prompt, 10)
    whole = served.openai.chat.completions.create(
        model="a", messages=messages, max_tokens=10, temperature=0, logprobs=True, top_logprobs=2
    )
    assert whole.choices[0].message.content == text_after(prompt, expected)
    assert whole.choices[0].logprobs is not None
    content = whole.choices[0].logprobs.content or []
    assert len(content) == len(expected)
    assert all(len(token.top_logprobs) == 2 for token in content)
    stream = served.openai.chat.completions.create(
        model="a", messages=messages, max_completion_tokens=10, temperature=0, stream=True
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == text_after(prompt, expected)


def test_a_call_that_is_named_is_made_streamed_and_unstreamed(served: Served) -> None:
    asked: Any = {
        "model": "a",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "run", "parameters": {"const": {}}}}],
        "tool_choice": {"type": "function", "function": {"name": "run"}},
        "max_tokens": 120,
        "temperature": 0,
    }
    answer = served.openai.chat.completions.create(**asked)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "run"
    assert json.loads(call.function.arguments) == {}
    name, arguments = "", ""
    for chunk in served.openai.chat.completions.create(**asked, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or ():
            name += delta.function.name or ""
            arguments += delta.function.arguments
    assert (name, arguments) == (call.function.name, call.function.arguments)
    cards = served.http.get("/v1/models").json()["data"]
    assert {card["response_template"] for card in cards} == {"file"}


def test_a_stop_string_ends_the_text(served: Served) -> None:
    expected = text_after(TOKENS, served.family.generate("a", TOKENS, 20))
    stop = next(character for character in expected[3:] if character != "\ufffd")
    answer = served.openai.completions.create(
        model="a", prompt=PROMPT, max_tokens=20, temperature=0, stop=[stop]
    )
    assert answer.choices[0].text == expected[: expected.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_seed_gives_the_same_choices_again(served: Served) -> None:
    def ask() -> list[str]:
        answer = served.openai.completions.create(
            model="b", prompt=PROMPT, max_tokens=12, n=3, seed=5, temperature=1
        )
        return [choice.text for choice in answer.choices]

    first = ask()
    assert len(set(first)) == 3
    assert ask() == first


def test_echo_with_logprobs_agrees_with_the_original(served: Served) -> None:
    prompts = [TOKENS, TOKENIZER("another prompt")["input_ids"]]
    answer = served.openai.completions.create(
        model="c", prompt=prompts, max_tokens=1, temperature=0, echo=True, logprobs=1
    )
    for tokens, choice in zip(prompts, answer.choices, strict=True):
        assert choice.logprobs is not None
        given: Any = choice.logprobs.token_logprobs
        tops: Any = choice.logprobs.top_logprobs
        expected = served.family.logprobs("c", tokens)
        assert given[0] is None
        assert given[1:-1] == pytest.approx(expected, abs=1e-4)
        for logprob, top in zip(given[1:], tops[1:], strict=True):
            assert max(top.values()) >= logprob
        assert max(tops[-1].values()) == given[-1]  # greedy


def test_a_model_is_pinned_at_every_replica_and_shown_there(served: Served) -> None:
    pinned = served.http.post("/admin/models/a/pin").json()["replicas"]
    assert [one["release"] for one in pinned] == [served.first]
    for section in ("releases", "channels", "aliases", "residency", "queue"):
        [replica] = served.http.get(f"/admin/{section}").json()["replicas"]
        assert replica["replica"] == pinned[0]["replica"]
        assert replica[section]
    assert served.http.post("/admin/models/a/unload").status_code == 400
    assert served.http.post("/admin/models/a/unpin").status_code == 200
    assert served.http.post("/admin/models/nobody/pin").status_code == 404


def test_an_unknown_model_is_404(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.openai.completions.create(model="nobody", prompt="x")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_400(served: Served, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.openai.completions.create(model="a", prompt="x" * CONTEXT, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_a_prompt_of_millions_of_tokens_reaches_the_engine_and_is_400(served: Served) -> None:
    """Not through the openai client, which looks at each token for 30 s."""
    body = json.dumps({"model": "a", "prompt": [3] * 3_000_000})  # 6 MB as a message
    answer = served.http.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model": "a"}',
        b'{"model": 1, "prompt": "x"}',
        b'{"prompt": "x"}',
        b'{"model": "a", "prompt": {}}',
        b'{"model": "a", "prompt": "x", "max_tokens": "5"}',
    ],
)
def test_a_malformed_body_is_400(served: Served, body: bytes) -> None:
    response = served.http.post("/v1/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_request_id_comes_back_once(served: Served) -> None:
    response = served.http.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert len(served.http.get("/v1/models").headers.get_list("x-request-id")) == 1


def test_tokenize_detokenize_version_and_metrics_answer(served: Served) -> None:
    tokens = served.http.post("/tokenize", json={"model": "a", "prompt": PROMPT}).json()
    assert tokens == {"tokens": TOKENS, "count": len(TOKENS), "max_model_len": CONTEXT}
    text = served.http.post("/detokenize", json={"model": "a", "tokens": TOKENS[1:]}).json()
    assert text == {"prompt": PROMPT}
    assert "version" in served.http.get("/version").json()
    metrics = of_one(served.http.get("/metrics").text)
    assert f'expertpool_release_info{{release="{served.first}",side="stable"}} 1.0' in metrics


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_pages(served: Served, stream: bool) -> None:
    until(served.idle, 30)
    body = {"model": "a", "prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "n": 4}
    raw = json.dumps({**body, "stream": stream}).encode()
    host, port = served.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        connection.sendall(head.encode() + raw)
        until(lambda: bool(served.engine()["num_running"]), 30)
    before = served.engine()["engine_steps_total"]
    until(served.idle, 30)
    assert served.engine()["engine_steps_total"] - before < 190


def test_a_damaged_release_leaves_the_old_one_serving(served: Served) -> None:
    family = served.family
    family.make_models(["a", "b", "c", "d", "e"])
    damaged = family.publish(["a", "e"])
    manifest = family.registry.read_manifest(damaged)
    good = {blob.digest for model in "abc" for blob in _blobs(served, model)}
    blob = next(each for each in manifest.models["e"].backbone if each.digest not in good)
    path = family.root / "registry" / FAMILY / "blobs" / f"{blob.digest}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    family.registry.move_channel("stable", damaged)
    until(lambda: bool(served.engine()["failed_release"] == damaged), 30)
    assert blob.digest in served.engine()["error"]
    answer = served.openai.completions.create(model="a", prompt=PROMPT, max_tokens=2)
    assert answer.system_fingerprint == served.first
    family.registry.move_channel("stable", served.first)
    until(lambda: served.engine()["wanted"] == served.first, 30)


def _blobs(served: Served, model: str) -> Any:
    return served.family.registry.read_manifest(served.first).models[model].backbone


def _has_answered(answered: Sequence[tuple[float, str]], since: float, release: str) -> bool:
    return sum(at > since and by == release for at, by in answered) > 9


def test_publishing_under_load_fails_no_request(served: Served) -> None:
    """Three clients ask without a pause while the channel moves there and back."""
    expected = {
        model: text_after(TOKENS, served.family.generate(model, TOKENS, 6)) for model in MODELS
    }
    answered: list[tuple[float, str]] = []
    done = False

    def ask(model: str) -> int:
        num = 0
        with openai.OpenAI(
            base_url=f"{served.address}/v1", api_key="none", max_retries=0
        ) as client:
            while not done:
                answer = client.completions.create(
                    model=model, prompt=PROMPT, max_tokens=6, temperature=0
                )
                assert answer.choices[0].text == expected[model]
                answered.append((time.monotonic(), answer.system_fingerprint or ""))
                num += 1
        return num

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, model) for model in MODELS]
        try:
            for release in (served.second, served.first):
                served.family.registry.move_channel("stable", release)
                assert served.until_serving(release, 20) < 5
                until(partial(_has_answered, answered, time.monotonic(), release), 20)
        finally:
            done = True
        counts = [each.result(timeout=60) for each in asking]
    assert min(counts) > 3
    assert {release for _, release in answered} == {served.first, served.second}
    until(lambda: served.engine()["loaded_releases"] == 1, 30)
    until(served.idle, 30)
