"""The line of the log that each request leaves: whose, what became of it, never what was said."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.logs.about import ACCESS, FACTS, KIND
from serve_app.protocol.errors import no_such_model
from serve_app.serving.metrics.http_counts import HttpCounts
from serve_app.serving.metrics.metrics_pages import ingress_families, page
from serve_app.tenants.key_text import digest_of, id_of
from tests.api.fakes import ACCEPTED, FakeClient, piece
from tests.api.held_keys import HeldKeys

BODY = {"model": "news-1", "prompt": "MARKED", "max_tokens": 5}
ANSWER = [[ACCEPTED], [piece("MARKED", num_cached=2, queued_s=0.5), piece("b", "stop")]]


def lines(
    caplog: pytest.LogCaptureFixture,
    *requests: tuple[str, str, dict[str, Any]],
    client: FakeClient | None = None,
) -> list[dict[str, Any]]:
    """The facts of all lines."""

    async def run() -> None:
        held = HeldKeys({"infer": {}, "metrics": {"scopes": ["metrics"]}})
        app = build_api(Api(client or FakeClient(*ANSWER), RequestLimits(), held))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            for method, path, more in requests:
                headers = {"authorization": "Bearer infer", "x-request-id": "mine"}
                await http.request(method, path, **{"headers": headers, **more})

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    ours = [record for record in caplog.records if record.name.startswith("serve_app")]
    assert "MARKED" not in str([record.getMessage() for record in ours])
    found = [record for record in caplog.records if record.name == ACCESS]
    assert all(record.getMessage() == "request" for record in found)
    assert "MARKED" not in str([getattr(record, FACTS) for record in found])
    return [getattr(record, FACTS) for record in found]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answered_request_leaves_one_line_with_what_it_took(
    caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    [line] = lines(caplog, ("POST", "/v1/completions", {"json": {**BODY, "stream": stream}}))
    assert line.pop("total_s") >= line.pop("first_token_s") >= 0
    assert line == {
        "request": "mine",
        "method": "POST",
        "path": "/v1/completions",
        "tenant": "acme",
        "key": id_of(digest_of("infer")),
        "status": 200,
        "model": "news-1",
        "answered_by": "a",
        "release": "r1",
        "prompt_tokens": 3,
        "cached_tokens": 2,
        "answer_tokens": 2,
        "queue_s": 0.5,
        "finish": "stop",
    }


def test_a_refused_request_leaves_its_code_and_nothing_that_somebody_wrote(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = FakeClient([no_such_model("MARKED").to_item()])
    bad_key = {"headers": {"authorization": "Bearer MARKED"}}
    found = lines(
        caplog,
        ("POST", "/v1/completions", {"json": {**BODY, "model": "MARKED"}}),
        ("POST", "/v1/completions", {"json": {**BODY, "n": "MARKED"}}),
        ("POST", "/v1/completions", bad_key),
        ("GET", "/v1/models/MARKED?MARKED=1", {}),
        ("GET", "/MARKED", {}),
        ("HEAD", "/version", {}),
        client=client,
    )
    assert [(line["status"], line.get("code")) for line in found[:3]] == [
        (404, "model_not_found"),
        (400, "invalid_request"),
        (401, "invalid_api_key"),
    ]
    assert "tenant" not in found[2]
    assert [line["path"] for line in found[3:]] == [
        "/v1/models/{model:path}",
        "none of the routes",
        "/version",
    ]
    assert (found[4]["status"], found[5]["method"], found[5]["status"]) == (404, "HEAD", 200)


def test_refusals_of_one_kind_are_limited_and_answers_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines(
        caplog,
        ("POST", "/v1/completions", {"json": BODY}),
        ("POST", "/v1/completions", {"json": {}}),
        ("POST", "/v1/chat/completions", {"json": {}}),
    )
    answered, refused, other = [r for r in caplog.records if r.name == ACCESS]
    assert getattr(answered, KIND, "none") is None
    assert getattr(refused, KIND) == getattr(other, KIND) == "request 400 acme"


def test_probes_that_go_well_leave_no_line(caplog: pytest.LogCaptureFixture) -> None:
    class Healthy(FakeClient):
        async def status(self) -> Any:
            return {"healthy": True, "release": "r1", "detail": {}}

    probes: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", path, {}) for path in ("/health", "/ready")
    ]
    scrape = ("GET", "/metrics", {"headers": {"authorization": "Bearer metrics"}})
    assert lines(caplog, *probes, scrape, client=Healthy()) == []
    [line] = lines(caplog, probes[0])
    assert (line["path"], line["status"]) == ("/health", 503)


def test_a_client_that_leaves_before_its_answer_is_told_as_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = build_api(Api(FakeClient(), RequestLimits()))
    scope = {"type": "http", "method": "POST", "path": "/v1/completions"}

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    async def run() -> None:
        await app({**scope, "headers": [], "query_string": b""}, receive, send)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    [record] = [record for record in caplog.records if record.name == ACCESS]
    assert getattr(record, FACTS)["status"] == 499


def test_a_job_carries_the_id_that_its_client_knows() -> None:
    client = FakeClient(*ANSWER)

    async def run() -> None:
        transport = httpx.ASGITransport(app=build_api(Api(client, RequestLimits())))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            answer = await http.post("/v1/completions", json=BODY, headers={"x-request-id": "mine"})
            assert answer.headers["x-request-id"] == "mine"

    asyncio.run(run())
    assert client.jobs[0]["request"] == "mine"


def test_each_answer_is_counted_by_route_and_status_and_never_by_what_a_client_wrote() -> None:
    counts = HttpCounts("i1")

    async def run() -> None:
        held = HeldKeys({"infer": {}})
        client = FakeClient(*ANSWER)
        app = build_api(Api(client, RequestLimits(), held, count=counts.count))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            asks = {"authorization": "Bearer infer"}
            await http.post("/v1/completions", json=BODY, headers=asks)
            await http.post("/v1/completions", json={}, headers=asks)
            await http.post("/v1/completions", json=BODY)
            await http.get("/v1/models/secret", headers=asks)
            await http.get("/v1/secret", headers=asks)
            await http.get("/health")

    asyncio.run(run())
    assert counts.values() == {
        ("i1", "/v1/completions", "2xx"): 1,
        ("i1", "/v1/completions", "4xx"): 1,
        ("i1", "/v1/models/{model:path}", "5xx"): 1,
        ("i1", "none", "4xx"): 2,
        ("i1", "/health", "5xx"): 1,
    }
    text = page(ingress_families(None, None, counts.values()))
    assert (
        'expertpool_http_requests_total{ingress="i1",route="/v1/completions",status="4xx"} 1.0'
        in text
    )
    assert {tuple(figure.labels) for figure in counts.figures(())} == {("route", "status")}
