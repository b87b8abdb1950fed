"""Routes, streams and errors over a client that does as it is told."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve_app.api.answers.chat_answers import chat_logprobs
from serve_app.api.answers.completion_answers import legacy_logprobs
from serve_app.api.routes import Api, build_api
from serve_app.api.statuses import OPENAI
from serve_app.config import RequestLimits
from serve_app.protocol.errors import CODES, ProtocolError, loading, overloaded
from serve_app.protocol.messages import Item, TokenItem
from tests.api.fakes import ACCEPTED, FakeClient, piece

BODY = {"model": "m", "prompt": "x"}


def _call(client: FakeClient, method: str, path: str, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        app = build_api(Api(client, RequestLimits(body_bytes=2000), clock=lambda: 5.0))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, **options)

    return asyncio.run(run())


def _post(client: FakeClient, **fields: Any) -> httpx.Response:
    return _call(client, "POST", "/v1/completions", json={**BODY, **fields})


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_has_its_status_and_its_retry_after(stream: bool) -> None:
    client = FakeClient([overloaded("too many").to_item()])
    response = _post(client, stream=stream)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"] == {
        "message": "too many",
        "type": "rate_limit_error",
        "param": None,
        "code": "server_overloaded",
    }
    assert client.num_closed == 1


def test_an_error_in_the_middle_of_a_whole_answer_is_its_status() -> None:
    client = FakeClient([ACCEPTED], [piece("a"), loading("going").to_item()])
    response = _post(client)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "loading")
    assert client.num_closed == 1


def test_an_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    client = FakeClient([ACCEPTED], [piece("a"), loading("going").to_item()])
    response = _post(client, stream=True)
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert response.status_code == 200
    assert json.loads(events[0])["choices"][0]["text"] == "a"
    assert json.loads(events[-1])["error"]["code"] == "loading"
    assert len(events) == 2
    assert client.num_closed == 1


def test_what_came_before_an_error_is_said_once() -> None:
    items = [piece("a"), piece("b", "stop"), loading("going").to_item()]
    response = _post(FakeClient([ACCEPTED], items), stream=True, n=2)
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert [json.loads(event)["choices"][0]["text"] for event in events[:-1]] == ["a", "b"]
    assert json.loads(events[-1])["error"]["code"] == "loading"
    response = _post(FakeClient([ACCEPTED], items), stream=True)  # its one choice has ended
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert [json.loads(event)["choices"][0]["text"] for event in events[:-1]] == ["a", "b"]
    assert json.loads(events[-1])["error"]["code"] == "loading"


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_ends_too_early_is_an_internal_error(stream: bool) -> None:
    response = _post(FakeClient([ACCEPTED], [piece("a")]), stream=stream)
    assert '"internal_error"' in response.text
    assert "[DONE]" not in response.text


def test_an_engine_that_says_nothing_is_an_internal_error() -> None:
    assert _post(FakeClient()).status_code == 500


def test_what_nobody_expected_is_500_in_openais_form() -> None:
    response = _post(FakeClient(raises=RuntimeError("secret")))
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


def test_a_body_that_is_too_long_is_refused() -> None:
    response = _post(FakeClient(), prompt="x" * 3000)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert "2000" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/", 404),
        ("GET", "/docs", 404),
    ],
)
def test_unknown_routes_and_methods_are_refused_in_openais_form(
    method: str, path: str, status: int
) -> None:
    response = _call(FakeClient(), method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert ("allow" in response.headers) == (status == 405)


def test_a_request_id_is_kept_if_it_is_sane() -> None:
    long = "x" * 200
    for given, kept in (("abc-1", True), ("", False), (long, False), ("a b", False)):
        response = _call(FakeClient(), "GET", "/version", headers={"x-request-id": given})
        named = response.headers.get_list("x-request-id")
        assert len(named) == 1
        assert (named == [given]) is kept


def test_an_unhealthy_engine_is_seen() -> None:
    client = FakeClient()
    health = _call(client, "GET", "/health")
    assert health.status_code == 503
    assert health.json()["detail"] == {"why": "stalled"}
    assert _call(client, "GET", "/ready").status_code == 503


def test_an_engine_out_of_reach_is_unhealthy() -> None:
    client = FakeClient(raises=overloaded("nobody there"))
    assert _call(client, "GET", "/health").status_code == 503


def test_a_choice_with_echo_and_text_is_put_together() -> None:
    items: list[Item] = [piece("ab", num_tokens=0), piece("c"), piece("", "length")]
    body = _post(FakeClient([ACCEPTED], items)).json()
    assert body["choices"][0]["text"] == "abc"
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _token(**change: Any) -> TokenItem:
    token: Any = {"text": "a", "bytes": b"a", "logprob": -1.0, "top": [], "offset": 0, **change}
    made: TokenItem = token
    return made


def test_a_token_is_always_among_its_legacy_alternatives() -> None:
    top = [{"text": "b", "bytes": b"b", "logprob": -0.5}]
    made = legacy_logprobs([_token(top=top), _token(logprob=None, top=None)])
    assert made["top_logprobs"] == [{"b": -0.5, "a": -1.0}, None]
    assert made["token_logprobs"] == [-1.0, None]


def test_a_logprob_of_minus_infinity_can_be_written() -> None:
    never = _token(
        logprob=float("-inf"), top=[{"text": "b", "bytes": b"b", "logprob": float("-inf")}]
    )
    for made in (legacy_logprobs([never]), chat_logprobs([never])):
        assert "-9999.0" in json.dumps(made, allow_nan=False)


def test_every_code_of_the_protocol_has_a_status() -> None:
    assert set(OPENAI.statuses) == set(CODES)


def test_a_code_of_a_newer_engine_is_an_internal_error() -> None:
    item = loading("going").to_item()
    assert ProtocolError.of_item({**item, "code": "brand_new"}).code == "internal_error"


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/v1/completions", {"prompt": "x" * 300_000}, 400),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x" * 300_000}]}, 400),
        ("/v1/responses", {"input": "x" * 300_000}, 400),
        ("/tokenize", {"prompt": "x" * 300_000}, 200),
    ],
)
def test_a_long_prompt_that_no_model_takes_never_reaches_the_engine(
    path: str, fields: dict[str, Any], status: int
) -> None:
    client = FakeClient()
    card: Any = {"id": "m", "max_model_len": 1000, "max_prompt_len": 1000}
    client.served = {"release": "r1", "models": [card], "weights": [0.5] * 256}
    app = build_api(Api(client, RequestLimits(), clock=lambda: 5.0))

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post(path, json={"model": "m", **fields})

    response = asyncio.run(run())
    assert (response.status_code, client.jobs) == (status, [])
    assert status == 200 or "the prompt is too long" in response.text
