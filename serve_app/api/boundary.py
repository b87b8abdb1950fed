"""The ASGI layer of ids, of methods that need no route, and of the answers to exceptions."""

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.anthropic.anthropic_errors import ANTHROPIC, speaks_anthropic
from serve_app.api.statuses import OPENAI, ErrorShape
from serve_app.api.streams import ClientGone
from serve_app.errors import where
from serve_app.logs.about import about
from serve_app.protocol.errors import ProtocolError, bad_request, internal

_log = logging.getLogger(__name__)
REQUEST_ID = "expertpool.request"
"""In the scope: the request's id."""
STATUS = "expertpool.status"
"""In the scope: the status of the answer, once it has one."""
ERROR_CODE = "expertpool.code"
"""In the scope: the code of the error that was answered."""
ERROR_SHAPE = "expertpool.errors"
"""In the scope: how its errors are written."""
EXTRA_HEADERS = "expertpool.headers"
"""In the scope: a function that gives the headers to put on the answer, whatever it will be."""
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def request_id(headers: Headers) -> str:
    """The client's own id if it is printable and not too long, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


class Boundary:
    """Wraps the application. Unexpected exceptions are logged and answered with 500.

    HEAD is routed as GET, which the scope says then: the server leaves out the body. OPTIONS says
    which methods a route takes.

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
            scope["method"] = "GET"
        asked = Headers(scope=scope)
        name = scope[REQUEST_ID] = request_id(asked)
        shape = ANTHROPIC if speaks_anthropic(scope["path"], asked) else OPENAI
        scope[ERROR_SHAPE] = shape
        begun = False

        async def named_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                scope[STATUS] = message["status"]
                headers = MutableHeaders(scope=message)
                if self._names_answers:
                    headers["x-request-id"] = name
                if shape.id_header is not None:
                    headers[shape.id_header] = name
                if EXTRA_HEADERS in scope:
                    headers.update(scope[EXTRA_HEADERS]())
            await send(message)

        scope["app"] = self  # then the router raises what it refuses
        try:
            await self._app(scope, receive, named_send)
        except ClientGone:
            return
        except (ProtocolError, HTTPException) as error:
            response = _refusal(method, scope, error)
        except Exception as error:  # noqa: BLE001  the last resort: the client gets a body
            _log.error("a request failed: %s", where(error), extra=about(request=name))
            scope[ERROR_CODE] = internal().code
            response = shape.response(internal(), name)
        else:
            return
        if not begun:
            await response(scope, receive, named_send)


def _refusal(method: str, scope: Scope, error: ProtocolError | HTTPException) -> Response:
    """method: that was asked, before HEAD became GET."""
    shape: ErrorShape = scope[ERROR_SHAPE]
    path, name = scope["path"], scope[REQUEST_ID]
    if isinstance(error, ProtocolError):
        scope[ERROR_CODE] = error.code
        return shape.response(error, name)
    if error.status_code == 405:
        allowed = {"allow": _allowed((error.headers or {})["Allow"])}
        if method == "OPTIONS":
            return Response(headers=allowed)
        message = f"{method} is not allowed on {path}, which takes {allowed['allow']}"
        return shape.unrouted(shape.wrong_method, message, name, allowed)
    if error.status_code == 404:
        message = f"there is no {method} {path} here: {error.detail}"
        return shape.unrouted(shape.no_such_route, message, name)
    return shape.response(bad_request(str(error.detail)), name)


def _allowed(methods: str) -> str:
    """With those that need no route."""
    return f"{methods.replace('GET', 'GET, HEAD')}, OPTIONS"
