"""Who may use which route. The only place that reads a key from a request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import ceil
from time import monotonic
from typing import Protocol, TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.boundary import EXTRA_HEADERS
from serve_app.protocol.errors import (
    ProtocolError,
    limits_unknown,
    no_scope,
    over_budget,
    rate_limited,
    wrong_key,
)
from serve_app.tenants.keyring import ANYBODY, Caller, Keyring
from serve_app.tenants.keys_file import KeyScope, Tenant
from serve_app.tenants.limits.allowance import Allowance, LimitsUnknown, OverBudget, OverLimit, Use
from serve_app.tenants.limits.allowances import Allowances
from serve_app.tenants.limits.lease import Lessor

DOCS = "/docs"
OPEN = frozenset({"/health", "/ready", DOCS})
"""Answer anybody: a page without secrets, and those that say one word to who has no scope."""
_NOBODY = Caller("", Tenant(), "", frozenset())
ASKED = "expertpool.asked"
"""In the scope: whose request it is."""
_T = TypeVar("_T")
_LEFT_HEADER = "x-ratelimit-{}-{}"
LEFT_HEADERS = tuple(
    _LEFT_HEADER.format(which, of)
    for which in ("limit", "remaining", "reset")
    for of in ("requests", "tokens")
)
"""What answers may say of a tenant's limits."""


class Keys(Protocol):
    """The keys that hold now."""

    async def keyring(self) -> Keyring: ...

    @property
    def is_broken(self) -> bool:
        """Whether a change could not be taken up."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose request it is, and what is left for its tenant."""

    caller: Caller
    allowances: Allowances
    allowance: Allowance | None

    async def begin(self) -> Use:
        """Counts a request. Raises ProtocolError 429 if the tenant has used what it may."""
        assert self.allowance is not None, "this route is open to anybody"
        return await self._taken(self.allowance, self.allowance.begin)

    async def reserve(self, use: Use, prompt_tokens: int, answer_tokens: int) -> None:
        """Takes the tokens of a request. Raises ProtocolError 429, and takes nothing."""
        assert self.allowance is not None, "this route is open to anybody"
        take = partial(use.reserve, prompt_tokens, answer_tokens)
        await self._taken(self.allowance, take)

    async def _taken(self, allowance: Allowance, take: Callable[[float], _T]) -> _T:
        try:
            return await self.allowances.taken(allowance, take)
        except OverLimit as error:
            raise _over_limit(error) from error


def _over_limit(error: OverLimit) -> ProtocolError:
    """429 with the time to wait; 503 if nobody knows whether it is over."""
    match error:
        case LimitsUnknown():
            return limits_unknown(str(error), error.wait_s)
        case OverBudget():
            return over_budget(str(error), error.wait_s)
    return rate_limited(str(error), error.wait_s)


def asked_by(request: Request) -> Asked:
    """Whose request it is."""
    asked: Asked = request.scope[ASKED]
    return asked


def needed(path: str) -> frozenset[KeyScope]:
    """Any of these is enough for a route."""
    if path == "/metrics":
        return frozenset({KeyScope.METRICS})
    if path in ("/version", "/openapi.json"):
        return frozenset(KeyScope)
    if path == "/admin" or path.startswith("/admin/"):
        return frozenset({KeyScope.ADMIN})
    return frozenset({KeyScope.INFER})


class Access:
    """An ASGI layer that lets in only those whose key has a scope that the route needs.

    It stands in a `Boundary`, which answers what it raises: ProtocolError 401 and 403.

    keys: None lets anybody in, as the tenant `default`.   lessor: of tenants' limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | None,
        lessor: Lessor,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._app = app
        self._keys = keys
        self._now = now
        self._allowances = Allowances(lessor)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            try:
                await self._app(scope, receive, send)
            finally:  # a lifespan ends when the application does
                await self._allowances.aclose()
            return
        caller = await self._caller(scope)
        allowance = None
        if caller is not _NOBODY:
            allowance = self._allowances.of(caller)
            scope[EXTRA_HEADERS] = partial(left_headers, allowance)
        scope[ASKED] = Asked(caller, self._allowances, allowance)
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        """Raises ProtocolError 401 or 403."""
        if self._keys is None:
            return ANYBODY
        if scope["method"] == "OPTIONS":  # no route takes it: it only says which methods they take
            return _NOBODY
        path: str = scope["path"]
        shown = _shown(Headers(scope=scope))
        caller = None
        if shown is not None:
            caller = (await self._keys.keyring()).caller(shown, self._now())
        if path in OPEN:
            return caller or _NOBODY
        if caller is None:
            raise wrong_key(is_shown=shown is not None)
        scopes = needed(path)
        if not caller.has(*scopes):
            raise no_scope(sorted(scopes))
        return caller


def left_headers(allowance: Allowance) -> Mapping[str, str]:
    """As OpenAI names them: limit, what remains, and when all of it is there again."""
    found = {}
    for what, left in allowance.left(monotonic()).items():
        found[_LEFT_HEADER.format("limit", what)] = str(left.limit)
        found[_LEFT_HEADER.format("remaining", what)] = str(left.remaining)
        found[_LEFT_HEADER.format("reset", what)] = span(left.reset_s)
    return found


def span(seconds: float) -> str:
    """A time as `6m0s`, in whole seconds, rounded up."""
    minutes, left = divmod(ceil(seconds), 60)
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def _shown(headers: Headers) -> str | None:
    """The key in `Authorization: Bearer`, else in `x-api-key`."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key") or None
