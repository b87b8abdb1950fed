"""The port that an ingress answers on by itself."""

import asyncio
import signal
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serve_app.config import ServeConfig
from serve_app.errors import ConfigError, ServingError
from serve_app.serving.ingress import Ingress
from serve_app.serving.listener import Listener
from serve_app.serving.run import free_port
from tests.serving.test_ingress import FakeHandle


async def _get(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_it_answers_until_it_is_closed_and_leaves_signals_alone() -> None:
    async def run() -> None:
        before = signal.getsignal(signal.SIGINT)
        port = free_port()
        listener = Listener(_app, "127.0.0.1", port)
        await listener.start()
        assert signal.getsignal(signal.SIGINT) is before
        assert (await _get(port, "/")).status_code == 204
        await listener.aclose()
        assert not listener.is_serving
        with pytest.raises(httpx.ConnectError):
            await _get(port, "/")

    asyncio.run(run())


def test_a_port_that_is_taken_is_named() -> None:
    async def run(port: int) -> None:
        with pytest.raises(ConfigError, match=str(port)):
            await Listener(_app, "127.0.0.1", port).start()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(run(taken.getsockname()[1]))


def test_of_two_that_share_a_port_the_one_that_is_left_answers() -> None:
    async def run() -> None:
        port = free_port()
        first, second = Listener(_app, "127.0.0.1", port), Listener(_app, "127.0.0.1", port)
        await first.start()
        await second.start()
        await first.aclose()
        for _ in range(20):
            assert (await _get(port, "/")).status_code == 204
        await second.aclose()

    asyncio.run(run())


def test_an_ingress_listens_where_it_is_told_to_and_is_ill_when_it_does_not() -> None:
    async def run() -> None:
        ingress = Ingress(FakeHandle(), ServeConfig())
        await ingress.check_health()  # it was not told to
        first, second = free_port(), free_port()
        for port in (first, second):
            await ingress.reconfigure({"host": "127.0.0.1", "port": port})
            response = await _get(port, "/version")
            assert response.status_code == 200
            assert len(response.headers.get_list("x-request-id")) == 1
        await ingress.check_health()
        with pytest.raises(httpx.ConnectError):
            await _get(first, "/version")
        assert ingress._listener is not None
        await ingress._listener.aclose()
        with pytest.raises(ServingError):
            await ingress.check_health()

    asyncio.run(run())
