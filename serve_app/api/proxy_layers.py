"""What Ray Serve's proxies put around all applications. Known by its name, from the environment:

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.api.proxy_layers.proxy_layers
"""

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.boundary import request_id


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


def proxy_layers() -> list[Middleware]:
    """Serve puts them outside of its own."""
    return [Middleware(SaneIds)]
