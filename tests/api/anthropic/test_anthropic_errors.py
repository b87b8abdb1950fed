"""Every error of Anthropic's routes is in Anthropic's shape, whoever makes it."""

import asyncio
from typing import Any

import httpx
import pytest
from anthropic.types.shared import ErrorResponse
from pydantic import TypeAdapter

from serve_app.api.anthropic.anthropic_errors import ANTHROPIC
from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import CODES, ProtocolError, overloaded
from tests.api.fakes import ACCEPTED, FakeClient, piece
from tests.api.held_keys import HeldKeys

BODY = {"model": "a", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
PATHS = ("/v1/messages", "/v1/messages/count_tokens")
VERSION = {"anthropic-version": "2023-06-01"}
ERRORS: TypeAdapter[ErrorResponse] = TypeAdapter(ErrorResponse)


def ask(
    method: str, path: str, client: FakeClient | None = None, body_bytes: int = 2000, **options: Any
) -> tuple[httpx.Response, Any]:
    """The response, and its error as Anthropic's client reads it, strictly. Of the types that
    Anthropic's documents name, the client's own types leave out `request_too_large`.
    """

    async def run() -> httpx.Response:
        keys = HeldKeys({"infer": {"scopes": ["infer"]}, "metrics": {"scopes": ["metrics"]}})
        limits = RequestLimits(body_bytes=body_bytes)
        app = build_api(Api(client or FakeClient([ACCEPTED]), limits, keys))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            given = {"headers": {"x-api-key": "infer"}, **options}
            return await http.request(method, path, **given)

    response = asyncio.run(run())
    told = response.json()
    if told["error"]["type"] == "request_too_large":
        error = ErrorResponse.construct(**told)
    else:
        error = ERRORS.validate_python(told, strict=True)
    assert set(told) == {"type", "error", "request_id"}
    assert set(told["error"]) == {"type", "message"}
    assert response.headers["request-id"] == response.headers["x-request-id"] == error.request_id
    return response, error.error


def test_every_error_has_a_status_and_a_type_that_the_client_knows() -> None:
    assert set(ANTHROPIC.statuses) == set(CODES)
    known = {
        *("invalid_request_error", "authentication_error", "permission_error", "not_found_error"),
        *("request_too_large", "rate_limit_error", "api_error", "timeout_error"),
        "overloaded_error",
    }
    assert {status.kind for status in ANTHROPIC.statuses.values()} == known


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_has_the_status_of_its_code(code: Any, stream: bool) -> None:
    item = ProtocolError(code, "for a reason").to_item()
    response, error = ask(
        "POST", PATHS[0], FakeClient([item]), json={**BODY, "stream": stream}
    )  # fmt: skip
    status = ANTHROPIC.statuses[code]
    assert (response.status_code, error.type) == (status.number, status.kind)
    assert error.message == "for a reason"
    waits = None if status.retry_after_s is None else str(status.retry_after_s)
    assert response.headers.get("retry-after") == waits


@pytest.mark.parametrize("path", PATHS)
def test_what_is_refused_before_the_engine_is_asked_has_the_shape_too(path: str) -> None:
    wrong: list[tuple[str, dict[str, Any], int, str, str]] = [
        ("POST", {"headers": {}}, 401, "authentication_error", "x-api-key"),
        ("POST", {"headers": {"x-api-key": "x"}}, 401, "authentication_error", "not valid"),
        ("POST", {"headers": {"x-api-key": "metrics"}}, 403, "permission_error", "scope"),
        ("GET", {}, 405, "invalid_request_error", "POST"),
        ("POST", {"content": b"x" * 3000}, 413, "request_too_large", "2000"),
        ("POST", {"content": b"{"}, 400, "invalid_request_error", "JSON"),
        ("POST", {"json": {**BODY, "max_token": 1}}, 400, "invalid_request_error", "'max_token"),
        ("POST", {"json": {"model": "a"}}, 400, "invalid_request_error", "'messages'"),
    ]
    for method, options, status, kind, says in wrong:
        response, error = ask(method, path, **options)
        assert (response.status_code, error.type) == (status, kind), (method, options)
        assert says.strip("'") in error.message


@pytest.mark.parametrize("path", PATHS)
def test_a_long_body_that_is_read_elsewhere_is_refused_in_the_shape_too(path: str) -> None:
    many = {**BODY, "stop_sequences": ["ab"] * 70_000}
    response, error = ask("POST", path, body_bytes=2**20, json=many)
    assert (response.status_code, error.type) == (400, "invalid_request_error")
    assert "too many values" in error.message


def test_routes_that_are_not_there_have_the_shape_of_who_asks() -> None:
    for path, headers in (
        ("/v1/messages/batches", {}),
        ("/v1/nothing", VERSION),
        ("/v1/models/x/y", VERSION),
    ):
        response, error = ask("POST", path, headers={"x-api-key": "infer", **headers})
        assert response.status_code in (404, 405)
        assert path in error.message


def test_what_nobody_expected_is_an_error_of_the_api_and_says_nothing_of_it() -> None:
    response, error = ask("POST", PATHS[0], FakeClient(raises=RuntimeError("secret")), json=BODY)
    assert (response.status_code, error.type) == (500, "api_error")
    assert "secret" not in response.text


def test_an_error_in_the_middle_of_a_whole_answer_is_its_status() -> None:
    client = FakeClient([ACCEPTED], [piece("a"), overloaded("too many").to_item()])
    response, error = ask("POST", PATHS[0], client, json=BODY)
    assert (response.status_code, error.type) == (529, "overloaded_error")
    assert client.num_closed == 1
