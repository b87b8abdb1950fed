"""What browsers and gateways ask beside the routes: methods, origins, and what there is."""

import asyncio
from typing import Any

import httpx
import pytest

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits, ServeConfig
from serve_app.page_origin import origin
from tests.api.held_keys import HeldKeys
from tests.api.test_access import ANSWER, BODY, KEYS, Listing, all_routes, call

PAGE = "https://chat.example.com"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, x-stainless-lang",
}


def _asked(origins: tuple[str, ...], method: str, path: str, **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        app = build_api(Api(Listing(*ANSWER), RequestLimits(), HeldKeys(KEYS), origins=origins))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, **options)

    return asyncio.run(ask())


@pytest.mark.parametrize("origins", [(PAGE,), ("http://other.example.com", PAGE), ("*",)])
def test_a_page_that_may_ask_is_told_so_without_a_key(origins: tuple[str, ...]) -> None:
    path = "/v1/chat/completions"
    told = _asked(origins, "OPTIONS", path, headers=PREFLIGHT)
    assert told.status_code == 200
    assert told.headers["access-control-allow-origin"] in (PAGE, "*")
    assert "POST" in told.headers["access-control-allow-methods"]
    assert "x-stainless-lang" in told.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in told.headers


@pytest.mark.parametrize("key", ["infer", "wrong"])
def test_answers_and_refusals_can_be_read_by_the_page(key: str) -> None:
    headers = {"origin": PAGE, "authorization": f"Bearer {key}"}
    answer = _asked((PAGE,), "POST", "/v1/completions", json=BODY, headers=headers)
    assert answer.status_code == (200 if key == "infer" else 401)
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("origins", "status"),
    [((), 200), (("https://other.example.com",), 400), ((f"{PAGE}:8443",), 400)],
)
def test_other_pages_are_not(origins: tuple[str, ...], status: int) -> None:
    told = _asked(origins, "OPTIONS", "/v1/completions", headers=PREFLIGHT)
    assert told.status_code == status
    assert "access-control-allow-origin" not in told.headers
    headers = {"origin": PAGE, "authorization": "Bearer infer"}
    answer = _asked(origins, "POST", "/v1/completions", json=BODY, headers=headers)
    assert answer.status_code == 200  # it is the browser that keeps it from the page
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("value", ["*", PAGE, "http://localhost:3000", "http://[::1]:8080"])
def test_an_origin_is_what_browsers_send(value: str) -> None:
    assert origin(value) == value
    assert ServeConfig(allow_origin=(value,)).allow_origin == (value,)


@pytest.mark.parametrize(
    "value", ["", "chat.example.com", f"{PAGE}/", f"{PAGE}:443", "https://*", "null", "HTTPS://a"]
)
def test_an_origin_that_no_browser_sends_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"origin|browsers"):
        origin(value)
    with pytest.raises(ValueError, match=r"origin|browsers"):
        ServeConfig(allow_origin=(value,))


def test_head_is_answered_as_get_and_options_with_the_methods_of_a_route() -> None:
    for method, path in all_routes():
        asked = call(None, ("OPTIONS", path, {}), ("HEAD", path, {}), (method, path, {}))
        options, head, itself = asked
        assert options.status_code == 200
        allowed = ["GET", "HEAD", "OPTIONS"] if method == "GET" else [method, "OPTIONS"]
        assert options.headers["allow"].split(", ") == allowed
        assert options.content == b""
        assert head.status_code == (itself.status_code if method == "GET" else 405)


def test_every_route_tells_its_methods_without_a_key_and_nothing_else() -> None:
    for _, path in all_routes():
        (answer,) = call(HeldKeys(KEYS), ("OPTIONS", path, {}))
        assert answer.status_code == 200
        assert answer.content == b""


def test_a_page_that_may_not_ask_is_told_its_origin_and_what_would_let_it() -> None:
    told = _asked(("https://other.example.com",), "OPTIONS", "/v1/models", headers=PREFLIGHT)
    error = told.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith(f"--allow-origin {PAGE}")
    headers = {**PREFLIGHT, "access-control-request-method": "DELETE"}
    told = _asked((PAGE,), "OPTIONS", "/v1/models", headers=headers)
    assert told.status_code == 400
    assert "DELETE" in told.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/response", "/docs", "/"])
def test_a_route_that_is_not_there_is_answered_with_those_that_are(path: str) -> None:
    (answer,) = call(None, ("POST", path, {"json": {}}))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (404, "invalid_request_error")
    assert error["message"].startswith(f"there is no POST {path} here: the routes are /v1/")
    assert "/v1/chat/completions, /v1/" in error["message"]
    assert "/v1/models/{model}, " in error["message"]
    assert "/admin" not in error["message"]


def test_a_method_that_a_route_does_not_take_is_answered_with_those_that_it_does() -> None:
    (answer,) = call(None, ("DELETE", "/v1/models", {}))
    assert answer.status_code == 405
    assert answer.json()["error"]["message"].endswith("takes GET, HEAD, OPTIONS")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
