"""The HTTP client against an endpoint that streams, refuses, breaks off and is not there."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator

import pytest
from aiohttp import web

from serve_app.bench.arms.endpoint import Http, HttpSpec, asked_of
from serve_app.bench.requests.open_loop import drive
from serve_app.bench.requests.outcomes import Outcome
from serve_app.bench.requests.workload import Asked, TimedJob
from serve_app.errors import ConfigError


class Endpoint:
    """What it does depends on the model that is asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []
        self.models: list[dict[str, object]] = [
            {"id": "b", "max_model_len": 64},
            {"id": "a", "max_model_len": 32},
        ]

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self.list)
        app.router.add_post("/v1/completions", self.complete)
        return app

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self.models})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if body["model"] == "unknown":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(2):  # two pieces, of however many tokens
            await _send(response, {"choices": [{"text": "some"}], "usage": None})
        if body["model"] == "breaks":
            await _send(response, {"error": {"message": "it broke"}})
            return response
        if body["model"] == "ends":
            return response
        if body["model"] == "hangs":
            await asyncio.sleep(60)
        usage = {"completion_tokens": body["max_tokens"]}
        await _send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def _send(response: web.StreamResponse, body: object) -> None:
    await response.write(f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode())


@pytest.fixture
def endpoint() -> Iterator[tuple[str, Endpoint]]:
    """An endpoint in a thread, and its address."""
    loop, behaviour = asyncio.new_event_loop(), Endpoint()
    runner = web.AppRunner(behaviour.app(), shutdown_timeout=0.1)

    async def start() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield asyncio.run_coroutine_threadsafe(start(), loop).result(), behaviour
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def answers(url: str, models: list[str], drain_s: float = 10.0) -> list[Outcome]:
    """One job of five tokens for each model, all at once."""
    client = HttpSpec(url, tuple(models)).open()
    try:
        jobs = [TimedJob(0.0, model, (3, 4, 5), 5, 7) for model in models]
        return drive(client, jobs, start=time.monotonic(), drain_s=drain_s).outcomes
    finally:
        client.close()


def test_an_answer_is_streamed_and_counted_by_what_the_endpoint_says(
    endpoint: tuple[str, Endpoint],
) -> None:
    url, behaviour = endpoint
    first, other = answers(url, ["a", "b"])
    for found in (first, other):
        assert not found.is_lost
        assert found.num_tokens == 5
        assert found.first_s is not None
        assert found.finished_s is not None
        assert 0 < found.first_s <= found.finished_s
    body = next(body for body in behaviour.bodies if body["model"] == "a")
    assert body["prompt"] == [3, 4, 5]
    assert body["max_tokens"] == 5
    assert body["temperature"] == 0
    assert body["ignore_eos"] is True
    assert body["stream"] is True


def test_what_is_refused_or_breaks_off_is_lost_and_says_why(
    endpoint: tuple[str, Endpoint],
) -> None:
    url, _ = endpoint
    refused, broke, ended, whole = answers(url, ["unknown", "breaks", "ends", "a"])
    assert refused.error is not None
    assert refused.error.startswith("404: ")
    assert "no such model" in refused.error
    assert broke.error is not None
    assert "it broke" in broke.error
    assert ended.error == "the stream ended before the answer did"
    assert not whole.is_lost


def test_an_answer_that_does_not_end_is_lost_in_time(endpoint: tuple[str, Endpoint]) -> None:
    hanging, whole = answers(endpoint[0], ["hangs", "a"], drain_s=0.5)
    assert hanging.error == "no complete answer within 0.5 s after the last arrival"
    assert hanging.first_s is not None
    assert not whole.is_lost


def test_nobody_there_is_said_for_every_request() -> None:
    (found,) = answers("http://127.0.0.1:9", ["a"])
    assert found.error is not None
    assert found.num_tokens == 0


def test_the_models_of_an_endpoint_are_those_it_lists(endpoint: tuple[str, Endpoint]) -> None:
    url, behaviour = endpoint
    assert asked_of(url, (), 99) == [Asked("a", 32, 99), Asked("b", 64, 99)]
    assert asked_of(url, ("b",), 99) == [Asked("b", 64, 99)]
    with pytest.raises(ConfigError, match="lists no model 'c': a, b"):
        asked_of(url, ("b", "c"), 99)
    behaviour.models = [{"id": "a"}]
    with pytest.raises(ConfigError, match="max_model_len of 'a'"):
        asked_of(url, (), 99)
    behaviour.models = []
    with pytest.raises(ConfigError, match="lists no models"):
        asked_of(url, (), 99)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9"):
        asked_of("http://127.0.0.1:9", (), 99)


def test_closing_ends_what_is_under_way(endpoint: tuple[str, Endpoint]) -> None:
    client = Http(endpoint[0])
    began = time.monotonic()
    drive(client, [TimedJob(0.0, "hangs", (3,), 5, 0)], start=began, drain_s=0.1)
    client.close()
    assert time.monotonic() - began < 10.0
