"""A port on which an ingress answers HTTP itself. Knows no Ray: it gets an ASGI application.

Several ingresses share one port: the system gives each new connection to one that listens, so one
that has died gets none (SO_REUSEPORT).
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from serve_app.errors import ConfigError

_CLOSING_S = 10.0
_KEEP_ALIVE_S = 120
"""Longer than clients keep idle connections, so that none is closed just as it is used."""


class Listener:
    """uvicorn on one address, in the event loop of the caller.

    port: 0 for any that is free.   is_shared: whether others may listen there too.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, *, is_shared: bool = True) -> None:
        self._address = (host, port)
        self._is_shared = is_shared
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="auto",
                ws="none",
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def is_serving(self) -> bool:
        return self._serving is not None and not self._serving.done()

    @property
    def port(self) -> int:
        """On which it answers, once it does."""
        return self._address[1]

    async def start(self) -> None:
        """Returns when it answers. Raises ConfigError for a port that is taken and not shared."""
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._is_shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            opened.bind(self._address)
        except OSError as error:
            opened.close()
            host, port = self._address
            raise ConfigError(f"port {port} of {host} cannot be used: {error.strerror}") from error
        self._address = opened.getsockname()[:2]
        self._serving = asyncio.create_task(self._server.serve(sockets=[opened]))
        await self._server.answers.wait()

    async def aclose(self) -> None:
        """Takes no more connections, and returns when running requests are answered, or when their
        clients do not read what is written to them.
        """
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=_CLOSING_S)


class _Server(uvicorn.Server):
    """Leaves the process's signal handlers alone, and says when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
