"""What Ray Serve's proxies put around all applications. Known by its name, from the environment:

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.api.proxy_layers.proxy_layers
"""

import asyncio
from collections.abc import Callable, MutableMapping
from time import monotonic
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.boundary import request_id

_HEALTH, _READY = "/-/healthz", "/ready"
_ANSWER_S = 2.0
"""An endpoint that has not said in this time that it is ready is not."""
_KEPT_S = 60.0
"""A proxy is kept for so long while nothing serves: its clients get errors in OpenAI's form, and
are told when to come back. Who probes it would only see that it is gone.
"""


class SaneIds:
    """Replaces the id of a request if it is too long or not printable.

    The proxy itself takes any, logs it and sends it back.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            headers["x-request-id"] = request_id(headers)
        await self._app(scope, receive, send)


class HealthyIfReady:
    """A proxy is not healthy before the endpoint is ready, nor `_KEPT_S` after it was for the last
    time. To Serve it is healthy as soon as there is an ingress, whether or not anything serves.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = monotonic) -> None:
        self._app = app
        self._clock = clock
        self._ready_at: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _HEALTH or await self._is_kept(scope):
            await self._app(scope, receive, send)
            return
        await PlainTextResponse("nothing serves", 503)(scope, receive, send)

    async def _is_kept(self, scope: Scope) -> bool:
        if await self._is_ready(scope):
            self._ready_at = self._clock()
        return self._ready_at is not None and self._clock() - self._ready_at < _KEPT_S

    async def _is_ready(self, scope: Scope) -> bool:
        asked = {**scope, "method": "GET", "path": _READY, "raw_path": _READY.encode()}
        statuses: list[int] = []

        async def note(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._app(asked, _NoBody().receive, note)
        except Exception:  # noqa: BLE001  whatever it is, this is not a readiness
            return False
        return statuses == [200]


class _NoBody:
    """What a client sends that has asked, and waits."""

    _is_sent = False

    async def receive(self) -> dict[str, Any]:
        if self._is_sent:
            await asyncio.Future()
        self._is_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}


def proxy_layers() -> list[Middleware]:
    """Serve puts them outside of its own."""
    return [Middleware(SaneIds), Middleware(HealthyIfReady)]
