"""What is refused or fails over HTTP, by a replica on a fake engine, all in one process."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve_app.config import RequestLimits, ServeConfig
from serve_app.tenants.keyring import ANYBODY
from serve_app.tenants.keys_file import Tenant
from tests.serving.asking import CHAT, HELLO, ask, refused, said
from tests.serving.fakes import world
from tests.serving.running import client_of, replica_of, serves, until


def test_an_unknown_model_is_404() -> None:
    response = ask("/v1/completions", {"model": "zz", "prompt": "the"})
    assert "zz" in refused(response, 404, "model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_says_so_with_numbers(stream: bool) -> None:
    body = {"model": "a", "prompt": [5] * 120, "max_tokens": 9, "stream": stream}
    message = refused(ask("/v1/completions", body), 400, "context_length_exceeded", "prompt")
    assert "128" in message
    assert "129" in message


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    body = {"model": "a", "prompt": [5] * 128}
    refused(ask("/v1/completions", body), 400, "context_length_exceeded", "prompt")


def test_the_operators_longest_prompt_holds() -> None:
    body = {"model": "a", "prompt": [5] * 4}
    response = ask("/v1/completions", body, limits=RequestLimits(prompt_tokens=3))
    refused(response, 400, "context_length_exceeded", "prompt")


@pytest.mark.parametrize("prompt", [[5] * 10, "jolly wolf " * 9])
def test_a_longer_prompt_than_one_step_computes_is_refused_with_the_limit(prompt: Any) -> None:
    """Where the model must have it in one step."""
    made = world(longest=9)
    body = {"model": "a", "prompt": prompt}
    message = refused(ask("/v1/completions", body, made), 400, "context_length_exceeded", "prompt")
    assert message.startswith("This model computes a prompt in one step, of at most 9 tokens.")
    assert ask("/v1/completions", {**body, "prompt": [5] * 9}, made).status_code == 200


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
    refused(ask("/v1/completions", body), 400, None, param)


def test_a_model_without_a_template_refuses_chats() -> None:
    refused(ask("/v1/chat/completions", CHAT), 400, None, "messages")


def test_too_many_open_choices_are_429_with_retry_after() -> None:
    async def run() -> httpx.Response:
        made = world(answers={"a": HELLO}, manual=True)
        settings = ServeConfig(family="fam", poll_s=0.02, max_open_choices=5)
        async with replica_of(made, settings) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            body = {"model": "a", "prompt": "the", "n": 3}
            first = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: bool(made.loop.seen))
            second = await client.post("/v1/completions", json=body)
            first.cancel()
            return second

    response = asyncio.run(run())
    refused(response, 429, "server_overloaded", None)
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert int(response.headers["retry-after"]) >= 1


def test_more_choices_than_may_ever_be_open_are_400() -> None:
    body = {"model": "a", "prompt": "the", "n": 3}
    assert ask("/v1/completions", body, world(), max_open_choices=3).status_code == 200
    refused(ask("/v1/completions", body, world(), max_open_choices=2), 400, None, None)


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
            return said(await asking)

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
    refused(response, 500, "internal_error", None)
    assert "step" not in response.text


def test_a_tenants_longest_prompt_and_answer_hold_for_its_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tenant = Tenant(prompt_tokens=3, answer_tokens=2)
    monkeypatch.setattr("serve_app.api.access.ANYBODY", replace(ANYBODY, tenant=tenant))
    body = {"model": "a", "prompt": [5, 6, 7, 8]}
    error = ask("/v1/completions", body).json()["error"]
    assert "4 tokens; at most 3 are accepted from this tenant" in error["message"]
    assert error["code"] == "context_length_exceeded"
    error = ask("/v1/completions", {**body, "prompt": [5], "max_tokens": 3}).json()["error"]
    assert "3 is above this tenant's limit of 2" in error["message"]
    assert error["param"] == "max_tokens"
    answer = ask("/v1/completions", {**body, "prompt": [5]}).json()
    assert answer["usage"]["completion_tokens"] == 2
