"""The routes. Each reads a body, asks the `EngineClient` and formats the answer; nothing more."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.access import DOCS, LEFT_HEADERS, Access, Keys, asked_by
from serve_app.api.access_lines import AccessLines, Routed
from serve_app.api.admin import admin_handlers
from serve_app.api.answers.whole_bytes import whole_bytes
from serve_app.api.anthropic.anthropic_errors import COUNT_TOKENS, is_for_anthropic
from serve_app.api.anthropic.as_chats import OWN_WORDS, count_job
from serve_app.api.anthropic.message_fields import CountFields
from serve_app.api.anthropic.model_infos import model_info, model_infos
from serve_app.api.boundary import Boundary
from serve_app.api.dialects import DIALECTS
from serve_app.api.foreign_pages import Pages
from serve_app.api.generating import Generating, caller_of
from serve_app.api.openapi import document as openapi
from serve_app.api.reading import Reader
from serve_app.api.recording import Handler, Record, Recorded
from serve_app.api.requests.fields import (
    DetokenizeFields,
    TokenizeFields,
)
from serve_app.api.requests.jobs import (
    detokenize_job,
    tokenize_job,
)
from serve_app.api.requests.own_words import told_in
from serve_app.config import RequestLimits
from serve_app.protocol.errors import (
    ProtocolError,
    draining,
    loading,
    no_such_model,
)
from serve_app.protocol.messages import (
    EngineClient,
    ModelCard,
    Models,
    Status,
    TokenizeJob,
    Tokens,
)
from serve_app.tenants.keyring import Caller
from serve_app.tenants.keys_file import KeyScope
from serve_app.tenants.limits.lease import Lessor
from serve_app.tenants.limits.local_lessor import LocalLessor

_STATUS_TIMEOUT_S = 3.0
_OF_STORED_ANSWERS = ("/v1/responses/", "/v1/conversations")


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes need. `clock` gives Unix seconds.

    keys: None where anybody who can reach the endpoint may use it.
    lessor: of tenants' limits; by default, one for this application alone.
    record: gets the record of each request that was to generate text.
    own_metrics: the page of this ingress's own metrics.
    count: gets the route's path, None for none of the routes, and the status of each answer.
    names_answers: put `x-request-id` on answers. Ray Serve's proxy already does.
    keep_alive_s: a stream that has nothing to say for so long says that it is there.
    origins: of pages whose scripts may ask, as browsers name them; `*` is any.
    has_docs: whether anybody may read the page about the routes.
    """

    client: EngineClient
    limits: RequestLimits
    keys: Keys | None = None
    lessor: Lessor = field(default_factory=LocalLessor)
    record: Record = lambda _: None
    own_metrics: Callable[[], str] = lambda: ""
    count: Callable[[str | None, int], None] = lambda *_: None
    clock: Callable[[], float] = time.time
    names_answers: bool = True
    keep_alive_s: float = 10.0
    origins: Collection[str] = ()
    has_docs: bool = False


def build_api(api: Api) -> ASGIApp:
    """The whole HTTP surface as one ASGI application."""
    reader = Reader(api.limits, api.client)
    routes = [*_generation(api, reader), *_texts(api, reader)]
    routes += [*_catalogue(api), *_operations(api)]
    for method, path, handler in admin_handlers(api.client):
        routes.append(_route(method, path, _Endpoint(handler)))
    whole = _document(api, routes)
    routes.append(_route("GET", openapi.PATH, _Endpoint(_telling(whole))))
    if api.has_docs:
        routes.append(_route("GET", DOCS, _Endpoint(_showing(whole))))
    router = Router(routes, redirect_slashes=False, default=_elsewhere(routes))
    inside = Access(router, api.keys, api.lessor)
    app = AccessLines(Boundary(inside, names_answers=api.names_answers), api.count)
    return _for_browsers(app, api.origins) if api.origins else app


def _for_browsers(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Answers a browser's question whether a page may ask, which comes without a key."""
    return Pages(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "request-id", "retry-after", *LEFT_HEADERS),
    )


def _elsewhere(routes: list[Route]) -> ASGIApp:
    """Says which routes there are, but for those of who runs the endpoint."""
    paths = (route.path.replace(":path}", "}") for route in routes)
    told = ", ".join(path for path in paths if not path.startswith("/admin/"))

    async def refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
        if scope["path"].startswith(_OF_STORED_ANSWERS):
            raise HTTPException(404, "answers are not stored, so none can be had again or changed")
        raise HTTPException(404, f"the routes are {told}")

    return refuse


class _Endpoint:
    """An ASGI application of one handler.

    Starlette would wrap a function, and with it each write of a stream, once more.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


def _document(api: Api, routes: list[Route]) -> Callable[[], openapi.Document]:
    """Of the routes that are in the list when it is first asked for, its own included. The page for
    people is no part of the API.
    """

    @cache
    def whole() -> openapi.Document:
        paths = [route for route in routes if route.path != DOCS]
        found = [(method, route.path) for route in paths for method in route.methods or ()]
        return openapi.document(found, package_version(), has_keys=api.keys is not None)

    return whole


def _telling(whole: Callable[[], openapi.Document]) -> Handler:
    async def tell(_: Request) -> Response:
        return JSONResponse(whole())

    return tell


def _showing(whole: Callable[[], openapi.Document]) -> Handler:
    from serve_app.api.openapi.routes_page import POLICY, page  # only who shows it needs jinja

    @cache
    def shown() -> str:
        return page(whole())

    async def show(_: Request) -> Response:
        return HTMLResponse(
            await asyncio.to_thread(shown), headers={"content-security-policy": POLICY}
        )

    return show


def _route(method: str, path: str, app: ASGIApp) -> Route:
    route = Route(path, Routed(path, app))
    route.methods = {method}  # Route itself would add HEAD to GET
    return route


def _generation(api: Api, reader: Reader) -> list[Route]:
    generating = Generating(api.client, api.limits, reader, api.clock, api.keep_alive_s)
    return [
        _route("POST", path, Recorded(generating.answering(dialect), api.record, api.clock))
        for path, dialect in DIALECTS.items()
    ]


def _texts(api: Api, reader: Reader) -> list[Route]:
    async def tokenize(request: Request) -> Response:
        fields = await reader.fields(request, TokenizeFields, is_answered=False)
        caller = caller_of(request, fields.model)
        reply = await tokens_of(tokenize_job(fields, caller))
        tokens, most = reply["tokens"], reply["max_model_len"]
        told = {"tokens": tokens, "count": len(tokens), "max_model_len": most}
        body = await whole_bytes(lambda: told, len(tokens))
        return Response(body, media_type="application/json")

    async def count_tokens(request: Request) -> Response:
        fields = await reader.fields(request, CountFields, is_answered=False)
        caller = caller_of(request, fields.model)
        with told_in(OWN_WORDS):
            reply = await tokens_of(count_job(fields, api.limits, caller))
        return JSONResponse({"input_tokens": len(reply["tokens"])})

    async def tokens_of(job: TokenizeJob) -> Tokens:
        reply = await api.client.tokenize(job)
        if reply["type"] == "error":
            raise ProtocolError.of_item(reply)
        return reply

    async def detokenize(request: Request) -> Response:
        fields = await reader.fields(request, DetokenizeFields, is_answered=False)
        caller = caller_of(request, fields.model)
        reply = await api.client.detokenize(detokenize_job(fields, caller))
        if reply["type"] == "error":
            raise ProtocolError.of_item(reply)
        return JSONResponse({"prompt": reply["text"]})

    return [
        _route("POST", COUNT_TOKENS, _Endpoint(count_tokens)),
        _route("POST", "/tokenize", _Endpoint(tokenize)),
        _route("POST", "/detokenize", _Endpoint(detokenize)),
    ]


def _catalogue(api: Api) -> list[Route]:
    async def models(request: Request) -> Response:
        caller = asked_by(request).caller
        cards = (await _models(api, caller))["models"]
        known = [card for card in cards if caller.tenant.may_use(card["id"])]
        if is_for_anthropic(request.headers):
            return JSONResponse(model_infos(known))
        return JSONResponse({"object": "list", "data": [_card(card) for card in known]})

    async def model(request: Request) -> Response:
        wanted = request.path_params["model"]
        caller = caller_of(request, wanted)
        for card in (await _models(api, caller))["models"]:
            if card["id"] == wanted:
                is_anthropic = is_for_anthropic(request.headers)
                return JSONResponse(model_info(card) if is_anthropic else _card(card))
        raise no_such_model(wanted)

    return [
        _route("GET", "/v1/models", _Endpoint(models)),
        _route("GET", "/v1/models/{model:path}", _Endpoint(model)),
    ]


def _operations(api: Api) -> list[Route]:
    async def health(request: Request) -> Response:
        status = await _status(api)
        body = {"status": "ok" if status["healthy"] else "unhealthy", **_told(request, status)}
        return JSONResponse(body, 200 if status["healthy"] else 503)

    async def ready(request: Request) -> Response:
        status = await _status(api)
        if status.get("draining"):
            raise draining()
        if status["release"] is None or not status["healthy"]:
            raise loading("no release is being served yet")
        release = {"release": status["release"]} if _may_know(request) else {}
        return JSONResponse({"status": "ready", **release})

    async def version_(_: Request) -> Response:
        return JSONResponse({"version": package_version()})

    async def metrics(_: Request) -> Response:
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT_S):
                text = await api.client.metrics()
        except TimeoutError:
            raise loading("the engine does not answer") from None
        text += api.own_metrics()
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return [
        _route("GET", "/health", _Endpoint(health)),
        _route("GET", "/ready", _Endpoint(ready)),
        _route("GET", "/version", _Endpoint(version_)),
        _route("GET", "/metrics", _Endpoint(metrics)),
    ]


async def _models(api: Api, caller: Caller) -> Models:
    known = await api.client.models(caller.name)
    if known["release"] is None:
        raise loading("no release is being served yet")
    return known


async def _status(api: Api) -> Status:
    """An engine that does not answer in time is unhealthy; the request itself does not fail."""
    try:
        async with asyncio.timeout(_STATUS_TIMEOUT_S):
            return await api.client.status()
    except (TimeoutError, ProtocolError):
        return {
            "healthy": False,
            "release": None,
            "detail": {"error": "the engine does not answer"},
        }


def _may_know(request: Request) -> bool:
    return asked_by(request).caller.has(KeyScope.METRICS, KeyScope.ADMIN)


def _told(request: Request, status: Status) -> dict[str, object]:
    """Reasons, for those who may know them."""
    if not _may_know(request):
        return {}
    return {"release": status["release"], "detail": status["detail"]}


def _card(card: ModelCard) -> dict[str, object]:
    return {"object": "model", **card}


def package_version() -> str:
    try:
        return version("expertpool")
    except PackageNotFoundError:
        return "unknown"
