"""The routes. Each reads a body, asks the `EngineClient` and formats the answer; nothing more."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from serve_app.api.answers import AnswerFormat, ChatFormat, CompletionFormat, Head
from serve_app.api.boundary import Boundary
from serve_app.api.fields import ChatFields, CompletionFields, DetokenizeFields, TokenizeFields
from serve_app.api.jobs import chat_job, completion_job, detokenize_job, tokenize_job
from serve_app.api.parse import parse
from serve_app.api.statuses import (
    NO_SUCH_ROUTE,
    WRONG_METHOD,
    error_response,
    routing_response,
)
from serve_app.api.streams import ClientGone, EventStream, OpenJob, collect, events, unless_gone
from serve_app.api.tenants import tenant_of
from serve_app.config import RequestLimits
from serve_app.protocol.errors import (
    ProtocolError,
    bad_request,
    internal,
    loading,
    no_such_model,
)
from serve_app.protocol.messages import EngineClient, Job, ModelCard, Models, Status

_STATUS_TIMEOUT_S = 3.0
_GONE = 499
"""What nginx logs for a client that has left; nobody receives it."""


@dataclass(frozen=True, slots=True)
class Api:
    """What the routes need. `clock` gives Unix seconds.

    names_answers: put `x-request-id` on answers. Ray Serve's proxy already does.
    """

    client: EngineClient
    limits: RequestLimits
    clock: Callable[[], float] = time.time
    names_answers: bool = True


def build_api(api: Api) -> ASGIApp:
    """The whole HTTP surface as one ASGI application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(_generation(api))
    app.include_router(_texts(api))
    app.include_router(_catalogue(api))
    app.include_router(_operations(api))
    app.add_exception_handler(ProtocolError, _protocol_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(Exception, _unexpected)
    return Boundary(app, names_answers=api.names_answers)


def _generation(api: Api) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions")
    async def completions(request: Request) -> Response:
        fields = parse(await _body(request, api.limits), CompletionFields)
        name = f"cmpl-{uuid.uuid4().hex}"
        job = completion_job(fields, api.limits, job=name, tenant=tenant_of(request))
        form = CompletionFormat(logprobs=job["logprobs"] is not None)
        return await _answer(
            api, request, job, form, stream=bool(fields.stream), usage=fields.include_usage
        )

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        fields = parse(await _body(request, api.limits), ChatFields)
        name = f"chatcmpl-{uuid.uuid4().hex}"
        job = chat_job(fields, api.limits, job=name, tenant=tenant_of(request))
        form = ChatFormat(logprobs=job["logprobs"] is not None)
        return await _answer(
            api, request, job, form, stream=bool(fields.stream), usage=fields.include_usage
        )

    return router


def _texts(api: Api) -> APIRouter:
    router = APIRouter()

    @router.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        fields = parse(await _body(request, api.limits), TokenizeFields)
        reply = await api.client.tokenize(tokenize_job(fields))
        if reply["type"] == "error":
            raise ProtocolError.of_item(reply)
        tokens = reply["tokens"]
        return JSONResponse(
            {"tokens": tokens, "count": len(tokens), "max_model_len": reply["max_model_len"]}
        )

    @router.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        fields = parse(await _body(request, api.limits), DetokenizeFields)
        reply = await api.client.detokenize(detokenize_job(fields))
        if reply["type"] == "error":
            raise ProtocolError.of_item(reply)
        return JSONResponse({"prompt": reply["text"]})

    return router


def _catalogue(api: Api) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> Response:
        known = await _models(api)
        return JSONResponse({"object": "list", "data": [_card(card) for card in known["models"]]})

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        for card in (await _models(api))["models"]:
            if card["id"] == model:
                return JSONResponse(_card(card))
        raise no_such_model(model)

    return router


def _operations(api: Api) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> Response:
        status = await _status(api)
        body = {"status": "ok" if status["healthy"] else "unhealthy", **_told(status)}
        return JSONResponse(body, 200 if status["healthy"] else 503)

    @router.get("/ready")
    async def ready() -> Response:
        status = await _status(api)
        if status["release"] is None or not status["healthy"]:
            raise loading("no release is being served yet")
        return JSONResponse({"status": "ready", "release": status["release"]})

    @router.get("/version")
    async def version_() -> Response:
        return JSONResponse({"version": package_version()})

    @router.get("/metrics")
    async def metrics() -> Response:
        try:
            async with asyncio.timeout(_STATUS_TIMEOUT_S):
                text = await api.client.metrics()
        except TimeoutError:
            raise loading("the engine does not answer") from None
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _answer(
    api: Api, request: Request, job: Job, form: AnswerFormat, *, stream: bool, usage: bool
) -> Response:
    """Sends nothing before the engine has accepted the job, so a refusal has its own status."""
    items = api.client.generate(job)
    try:
        opened = await unless_gone(request.receive, OpenJob.open(items))
        head = Head(job["id"], int(api.clock()), job["model"], opened.accepted["release"])
        choices = len(opened.accepted["prompt_tokens"]) * job["n"]
        if stream:
            source = events(opened, form, head, choices, include_usage=usage)
            return EventStream(source, items)
        body = await unless_gone(request.receive, collect(opened, form, head, choices))
    except BaseException:
        await items.aclose()  # whatever ended it, even cancellation: nothing stays in the engine
        raise
    return JSONResponse(body)


async def _body(request: Request, limits: RequestLimits) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.body_bytes:
            raise bad_request(f"The body is longer than the limit of {limits.body_bytes} bytes")
    return bytes(body)


async def _models(api: Api) -> Models:
    known = await api.client.models()
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


def _told(status: Status) -> dict[str, object]:
    return {"release": status["release"], "detail": status["detail"]}


def _card(card: ModelCard) -> dict[str, object]:
    return {"object": "model", **card}


def package_version() -> str:
    try:
        return version("expertpool")
    except PackageNotFoundError:
        return "unknown"


async def _protocol_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProtocolError)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        message = f"{request.method} is not allowed on {request.url.path}"
        return routing_response(WRONG_METHOD, message, error.headers)
    if error.status_code == 404:
        message = f"Invalid URL ({request.method} {request.url.path})"
        return routing_response(NO_SUCH_ROUTE, message, error.headers)
    return error_response(bad_request(str(error.detail)))


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this; `Boundary` logs it."""
    return error_response(internal())


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)
