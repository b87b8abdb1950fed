"""What Ray Serve's proxies put around all applications: ids that are sane, and a health that is."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serve_app.api import proxy_layers
from serve_app.api.proxy_layers import HealthyIfReady, SaneIds


class _Endpoint:
    """Behind a proxy that is healthy for Serve, as it is as soon as there is an ingress."""

    def __init__(self) -> None:
        self.ready = 503
        self.healthy = 200
        self.hangs = False
        self.asked: list[str] = []
        self.now = 1000.0
        routes = [Route(path, self._answer) for path in ("/ready", "/-/healthz", "/v1/models")]
        self.app = HealthyIfReady(Starlette(routes=routes), lambda: self.now)

    async def _answer(self, request: Any) -> PlainTextResponse:
        path = request.url.path
        self.asked.append(path)
        assert await request.body() == b""
        if path == "/ready" and self.hangs:
            await asyncio.Future()
        return PlainTextResponse(path, self.ready if path == "/ready" else self.healthy)

    def get(self, path: str) -> httpx.Response:
        async def get() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.get(path)

        return asyncio.run(get())


def test_a_proxy_is_healthy_once_the_endpoint_was_ready_and_for_a_minute_after() -> None:
    endpoint = _Endpoint()
    assert endpoint.get("/-/healthz").status_code == 503
    endpoint.ready = 200
    assert endpoint.get("/-/healthz").text == "/-/healthz"
    endpoint.ready = 503
    endpoint.now += 59
    assert endpoint.get("/-/healthz").status_code == 200
    endpoint.now += 2
    assert endpoint.get("/-/healthz").status_code == 503
    endpoint.ready = 200
    assert endpoint.get("/-/healthz").status_code == 200


def test_a_proxy_that_serve_calls_unhealthy_stays_so() -> None:
    endpoint = _Endpoint()
    endpoint.ready, endpoint.healthy = 200, 503
    assert endpoint.get("/-/healthz").status_code == 503


def test_an_endpoint_that_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_layers, "_ANSWER_S", 0.05)
    endpoint = _Endpoint()
    endpoint.hangs = True
    assert endpoint.get("/-/healthz").status_code == 503


def test_nobody_is_asked_about_other_requests() -> None:
    endpoint = _Endpoint()
    assert endpoint.get("/v1/models").status_code == 200
    assert endpoint.asked == ["/v1/models"]


def test_both_layers_are_around_a_proxy() -> None:
    around: list[object] = [each.cls for each in proxy_layers.proxy_layers()]
    assert around == [SaneIds, HealthyIfReady]
