"""The header that says how long a request may take, and what is answered when it took longer."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve_app.api.requests import deadline as deadline_module
from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import deadline_exceeded
from tests.api.fakes import ACCEPTED, FakeClient, piece

HEADER = "x-request-timeout-seconds"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "x"}
RESPONSE = {"model": "m", "input": "hi"}
PATHS = [
    ("/v1/completions", COMPLETION),
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", RESPONSE),
]


def _post(client: FakeClient, path: str, body: dict[str, Any], timeout: str) -> httpx.Response:
    async def run() -> httpx.Response:
        app = build_api(Api(client, RequestLimits(timeout_s=50)))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post(path, json=body, headers={HEADER: timeout})

    return asyncio.run(run())


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "", "soon", "50.1", "0x10"])
@pytest.mark.parametrize(("path", "body"), PATHS)
def test_what_is_no_time_or_too_long_is_400_and_named(
    path: str, body: dict[str, Any], timeout: str
) -> None:
    client = FakeClient([ACCEPTED])
    response = _post(client, path, body, timeout)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, HEADER)
    assert HEADER in error["message"]
    assert "50" in error["message"]
    assert client.jobs == []


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_what_is_left_of_it_goes_with_the_job(path: str, body: dict[str, Any]) -> None:
    client = FakeClient([ACCEPTED], [piece("a", "stop")])
    assert _post(client, path, body, "50").status_code == 200
    [job] = client.jobs
    assert job["timeout_s"] is not None
    assert 40 < job["timeout_s"] < 50


def test_a_request_that_waited_too_long_here_is_not_sent_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter([100.0, 150.5])
    monkeypatch.setattr(deadline_module, "monotonic", lambda: next(ticks))
    client = FakeClient([ACCEPTED])
    response = _post(client, "/v1/completions", COMPLETION, "50")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert client.jobs == []


@pytest.mark.parametrize("is_accepted", [True, False])
def test_a_missed_deadline_is_504_or_the_last_event_of_a_stream(is_accepted: bool) -> None:
    def missed() -> FakeClient:
        batches = [[deadline_exceeded().to_item()]]
        return FakeClient(*([[ACCEPTED]] if is_accepted else []), *batches)

    whole = _post(missed(), "/v1/completions", COMPLETION, "9")
    assert whole.status_code == 504
    body = whole.json()
    assert (body["error"]["type"], body["error"]["code"]) == ("server_error", "deadline_exceeded")
    stream = _post(missed(), "/v1/completions", {**COMPLETION, "stream": True}, "9")
    if is_accepted:
        assert stream.status_code == 200
        assert json.loads(stream.text.removeprefix("data: ")) == body
    else:
        assert (stream.status_code, stream.json()) == (504, body)
