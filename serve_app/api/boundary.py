"""The outermost ASGI layer: request ids in and out, and an OpenAI answer to every exception."""

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.statuses import error_response
from serve_app.protocol.errors import internal

_log = logging.getLogger(__name__)
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def request_id(headers: Headers) -> str:
    """The client's own id if it is printable and not too long, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


class Boundary:
    """Wraps the application. Unexpected exceptions are logged and answered with 500.

    names_answers: whether the answer carries the request's id; a proxy may add it already.
    """

    def __init__(self, app: ASGIApp, *, names_answers: bool = True) -> None:
        self._app = app
        self._names_answers = names_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = request_id(Headers(scope=scope))
        begun = False

        async def named_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if self._names_answers:
                    MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            await self._app(scope, receive, named_send)
        except Exception:  # noqa: BLE001  the last resort: whatever it is, the client gets a body
            _log.exception("request %s: %s %s failed", name, scope["method"], scope["path"])
            if not begun:
                await error_response(internal())(scope, receive, named_send)
