"""The ASGI layer of ids, of methods that need no route, and of OpenAI's answer to exceptions."""

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.statuses import NO_SUCH_ROUTE, WRONG_METHOD, error_response, routing_response
from serve_app.api.streams import ClientGone
from serve_app.errors import where
from serve_app.protocol.errors import ProtocolError, bad_request, internal

_log = logging.getLogger(__name__)
REQUEST_ID = "expertpool.request"
"""In the scope: the request's id."""
EXTRA_HEADERS = "expertpool.headers"
"""In the scope: a function that gives the headers to put on the answer, whatever it will be."""
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def request_id(headers: Headers) -> str:
    """The client's own id if it is printable and not too long, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


class Boundary:
    """Wraps the application. Unexpected exceptions are logged and answered with 500.

    HEAD is routed as GET: the server leaves out the body. OPTIONS says which methods a route takes.

    names_answers: whether the answer carries the request's id; a proxy may add it already.
    """

    def __init__(self, app: ASGIApp, *, names_answers: bool = True) -> None:
        self._app = app
        self._names_answers = names_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        name = scope[REQUEST_ID] = request_id(Headers(scope=scope))
        begun = False

        async def named_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                if self._names_answers:
                    headers["x-request-id"] = name
                if EXTRA_HEADERS in scope:
                    headers.update(scope[EXTRA_HEADERS]())
            await send(message)

        scope["app"] = self  # then the router raises what it refuses
        try:
            await self._app(scope, receive, named_send)
        except ClientGone:
            return
        except (ProtocolError, HTTPException) as error:
            response = _refusal(method, scope["path"], error)
        except Exception as error:  # noqa: BLE001  the last resort: the client gets a body
            _log.error("request %s: %s %s failed: %s", name, method, scope["path"], where(error))
            response = error_response(internal())
        else:
            return
        if not begun:
            await response(scope, receive, named_send)


def _refusal(method: str, path: str, error: ProtocolError | HTTPException) -> Response:
    if isinstance(error, ProtocolError):
        return error_response(error)
    if error.status_code == 405:
        allowed = {"allow": _allowed((error.headers or {})["Allow"])}
        if method == "OPTIONS":
            return Response(headers=allowed)
        message = f"{method} is not allowed on {path}, which takes {allowed['allow']}"
        return routing_response(WRONG_METHOD, message, allowed)
    if error.status_code == 404:
        message = f"there is no {method} {path} here: {error.detail}"
        return routing_response(NO_SUCH_ROUTE, message)
    return error_response(bad_request(str(error.detail)))


def _allowed(methods: str) -> str:
    """With those that need no route."""
    return f"{methods.replace('GET', 'GET, HEAD')}, OPTIONS"
