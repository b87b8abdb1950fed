"""Counts each request that has ended, and writes a line of it. Never what was asked or answered."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from time import monotonic
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.access import ASKED, Asked
from serve_app.api.boundary import ERROR_CODE, REQUEST_ID, STATUS
from serve_app.api.recording import GONE, RECORD
from serve_app.logs.about import ACCESS, about
from serve_app.tenants.usage_record import UsageRecord

_log = logging.getLogger(ACCESS)
ROUTE = "expertpool.route"
"""In the scope: the path of the route, without what a client has put in it."""
_PROBED = frozenset({"/health", "/ready", "/metrics"})
"""Asked again and again by machines: a line only if something is wrong."""


class Routed:
    """The application of a route, `path`."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        self._path = path
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = self._path
        await self._app(scope, receive, send)


class AccessLines:
    """An ASGI layer around a `Boundary`. Those inside leave in the scope what a line says."""

    def __init__(self, app: ASGIApp, count: Callable[[str | None, int], None]) -> None:
        """count: gets the path of the route, None if there is none, and the status."""
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = dict(scope)
        method, begun = scope["method"], monotonic()
        try:
            await self._app(scope, receive, send)
        finally:
            self._count(scope.get(ROUTE), scope.get(STATUS, GONE))
            if _log.isEnabledFor(logging.INFO):
                _say(method, scope, monotonic() - begun)


def _say(method: str, scope: Scope, seconds: float) -> None:
    status, route = scope.get(STATUS, GONE), scope.get(ROUTE)
    if route in _PROBED and status < 400:
        return
    asked: Asked | None = scope.get(ASKED)
    tenant = None if asked is None else asked.caller.name
    record: UsageRecord | None = scope.get(RECORD)
    facts = {"total_s": round(seconds, 3)} if record is None else _facts(record)
    is_refused = status >= 400
    _log.info(
        "request",
        extra=about(
            kind=f"request {status} {tenant}" if is_refused else None,
            is_limited=is_refused,
            request=scope[REQUEST_ID],
            method=method,
            path=route or "none of the routes",
            tenant=tenant or None,
            status=status,
            code=scope.get(ERROR_CODE),
            **facts,
        ),
    )


def _facts(record: UsageRecord) -> dict[str, Any]:
    """A model's name is told once it was found: before, it is what somebody has written."""
    facts = asdict(record)
    for name in ("time", "request", "tenant", "status"):
        del facts[name]
    facts["key"] = record.key or None
    if record.answered_by is None:
        facts = {name: facts[name] for name in ("key", "total_s")}
    return facts
