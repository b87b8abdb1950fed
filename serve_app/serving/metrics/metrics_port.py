"""The port of one replica on which Prometheus reads its metrics. Answers nothing else.

It listens where Ray's node does: on a pod's address, or on the loopback address of an endpoint on
one machine. Nobody is asked for a key there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from prometheus_client import make_asgi_app
from prometheus_client.metrics_core import Metric as Family
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import ConfigError
from serve_app.serving.listener import Listener
from serve_app.serving.metrics.metrics_pages import registry_of

_log = logging.getLogger(__name__)
PATH = "/metrics"
_AGAIN_S = 5.0
"""How long to wait for a port that another process still has: one that is draining, perhaps."""


async def listen(host: str, port: int, read: Callable[[], Iterable[Family]]) -> Listener:
    """Answers from now on.   port: 0 for any that is free.

    A port that is taken is an error in the log, which names it, and is tried again: a replica
    answers requests without its metrics rather than not at all.
    """
    app = _only_metrics(make_asgi_app(registry_of(read)))
    is_said = False
    while True:
        listener = Listener(app, host, port, is_shared=False)
        try:
            await listener.start()
        except ConfigError as error:
            if not is_said:
                _log.error("no metrics: %s; it is tried again every %g s", error, _AGAIN_S)
            is_said = True
            await asyncio.sleep(_AGAIN_S)
        else:
            _log.info("metrics are at http://%s:%d%s", host, listener.port, PATH)
            return listener


def _only_metrics(metrics: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == PATH and scope["method"] in ("GET", "HEAD"):
            await metrics(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app
