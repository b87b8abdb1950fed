"""Who may use which route, and what a tenant's limits do to its requests."""

import asyncio
from typing import Any

import httpx
import pytest

from serve_app.api.access import OPEN, span
from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.messages import Item, Models
from tests.api.fakes import ACCEPTED, FakeClient, piece
from tests.api.held_keys import HeldKeys
from tests.docs.test_reference import routes_of

EXPIRED = {"expires": "2020-01-01T00:00:00Z"}
SCOPES = ("infer", "metrics", "admin")
KEYS: dict[str, dict[str, object]] = {scope: {"scopes": [scope]} for scope in SCOPES}
BODY = {"model": "news-1", "prompt": "x", "max_tokens": 5}
ANSWER: list[list[Item]] = [[ACCEPTED], [piece("a"), piece("b", "stop")]]


class Listing(FakeClient):
    async def models(self, tenant: str) -> Models:
        facts = {"created": 1, "owned_by": "x", "release": "r1"}
        facts |= {"max_model_len": 9, "max_prompt_len": 9}
        cards: Any = [{"id": name, **facts} for name in ("news-1", "code")]
        return {"release": "r1", "models": cards, "weights": None}


def call(
    keys: HeldKeys | None,
    *requests: tuple[str, str, dict[str, Any]],
    client: FakeClient | None = None,
    has_docs: bool = False,
) -> list[httpx.Response]:
    """The answers to some requests, one after another: method, path, options."""

    async def run() -> list[httpx.Response]:
        app = build_api(Api(client or Listing(*ANSWER), RequestLimits(), keys, has_docs=has_docs))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return [await http.request(*one[:2], **one[2]) for one in requests]

    return asyncio.run(run())


def shown(key: str, **options: Any) -> dict[str, Any]:
    return {"headers": {"authorization": f"Bearer {key}"}, **options}


def all_routes(*, has_docs: bool = False) -> list[tuple[str, str]]:
    app: Any = build_api(Api(FakeClient(), RequestLimits(), has_docs=has_docs))
    return sorted(
        (method, path.replace("{}", "x")) for method, path in routes_of(app._app._app._app)
    )


def test_every_route_but_the_open_ones_needs_a_key_that_is_known_and_has_not_expired() -> None:
    keys = HeldKeys({**KEYS, "old": {"scopes": list(SCOPES), **EXPIRED}})
    routes = all_routes(has_docs=True)
    assert len(routes) >= 10
    assert {path for _, path in routes} > OPEN
    for method, path in [*routes, ("GET", "/nowhere"), ("POST", "/admin/x")]:
        for options in ({}, shown("wrong"), shown("old"), shown(""), shown("infe")):
            (answer,) = call(keys, (method, path, options), has_docs=True)
            if path in OPEN:
                assert answer.status_code in (200, 503)
            else:
                assert answer.status_code == 401, (method, path)
                error = answer.json()["error"]
                assert error["type"] == "authentication_error"
                if not path.startswith("/v1/messages"):
                    assert error["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.headers["x-request-id"]


def test_a_key_opens_the_routes_of_its_scope_alone() -> None:
    opened = {"/metrics": {"metrics"}, "/version": set(SCOPES), "/openapi.json": set(SCOPES)}
    for method, path in [*all_routes(), ("GET", "/admin/x")]:
        if path in OPEN:
            continue
        for scope in SCOPES:
            (answer,) = call(HeldKeys(KEYS), (method, path, shown(scope)))
            default = {"admin"} if path.startswith("/admin/") else {"infer"}
            is_open = scope in opened.get(path, default)
            assert (answer.status_code not in (401, 403)) == is_open, (method, path, scope)
            if not is_open:
                assert answer.json()["error"]["type"] == "permission_error"
                if not path.startswith("/v1/messages"):
                    assert answer.json()["error"]["code"] == "insufficient_permissions"


def test_the_two_open_routes_say_one_word_to_anybody_and_reasons_to_those_who_may_know() -> None:
    for options in ({}, shown("wrong"), shown("infer")):
        (answer,) = call(HeldKeys(KEYS), ("GET", "/health", options))
        assert answer.json() == {"status": "unhealthy"}
    for scope in ("metrics", "admin"):
        (answer,) = call(HeldKeys(KEYS), ("GET", "/health", shown(scope)))
        assert answer.json()["detail"] == {"why": "stalled"}
    (answer,) = call(None, ("GET", "/health", {}))
    assert answer.json()["detail"] == {"why": "stalled"}


def test_a_key_may_come_in_either_header() -> None:
    keys = HeldKeys(KEYS)
    for headers in (
        {"authorization": "bearer infer"},
        {"x-api-key": "infer"},
        {"authorization": "Basic x", "x-api-key": "infer"},
    ):
        (answer,) = call(keys, ("POST", "/v1/completions", {"json": BODY, "headers": headers}))
        assert answer.status_code == 200


def test_a_tenant_sees_and_uses_its_own_models_alone() -> None:
    keys = HeldKeys(KEYS, models=["news-*"])
    other = {**BODY, "model": "code"}
    listed, one, refused, asked, completed, chatted, text, tokens = call(
        keys,
        ("GET", "/v1/models", shown("infer")),
        ("GET", "/v1/models/news-1", shown("infer")),
        ("GET", "/v1/models/code", shown("infer")),
        ("POST", "/v1/completions", shown("infer", json=BODY)),
        ("POST", "/v1/completions", shown("infer", json=other)),
        (
            "POST",
            "/v1/chat/completions",
            shown("infer", json={"model": "none", "messages": [{"role": "user", "content": "x"}]}),
        ),
        ("POST", "/tokenize", shown("infer", json={"model": "code", "prompt": "x"})),
        ("POST", "/detokenize", shown("infer", json={"model": "code", "tokens": [1]})),
    )
    assert [card["id"] for card in listed.json()["data"]] == ["news-1"]
    assert (one.status_code, asked.status_code) == (200, 200)
    for answer in (refused, completed, chatted, text, tokens):
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "model_not_allowed"
        assert answer.json()["error"]["param"] == "model"


def test_what_is_left_of_the_limits_is_on_every_answer() -> None:
    keys = HeldKeys(KEYS, requests_per_minute=2, tokens_per_minute=60)
    post = ("POST", "/v1/completions", shown("infer", json=BODY))
    first, second, third, listed = call(
        keys, post, post, post, ("GET", "/v1/models", shown("infer"))
    )
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-tokens"] == "55"  # 3 of the prompt, 2 answered
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert listed.headers["x-ratelimit-remaining-tokens"] == "50"
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert third.json()["error"]["type"] == "rate_limit_error"
    assert 28 <= int(third.headers["retry-after"]) <= 30
    (answer,) = call(HeldKeys(KEYS), post)
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_beyond_the_tokens_left_is_given_up_in_the_engine(stream: bool) -> None:
    client = Listing(*ANSWER)
    keys = HeldKeys(KEYS, tokens_per_minute=12, concurrent_requests=1)
    post = ("POST", "/v1/completions", shown("infer", json={**BODY, "stream": stream}))
    first, second, third = call(keys, post, post, post, client=client)
    assert (first.status_code, second.status_code) == (200, 429) or stream
    assert third.status_code == 429
    assert "12 tokens per minute" in third.json()["error"]["message"]
    assert client.num_closed == len(client.jobs)


def test_a_request_that_ends_is_no_longer_open() -> None:
    keys = HeldKeys(KEYS, concurrent_requests=1)
    for stream in (True, False):
        post = ("POST", "/v1/completions", shown("infer", json={**BODY, "stream": stream}))
        assert [answer.status_code for answer in call(keys, post, post)] == [200, 200]
    bad = ("POST", "/v1/completions", shown("infer", json={**BODY, "max_tokens": -1}))
    good = ("POST", "/v1/completions", shown("infer", json=BODY))
    assert [answer.status_code for answer in call(keys, bad, bad, good)] == [400, 400, 200]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.2, "1s"), (59.5, "1m0s"), (360, "6m0s"), (61.2, "1m2s")]
)
def test_a_reset_is_told_in_minutes_and_seconds(seconds: float, text: str) -> None:
    assert span(seconds) == text
