"""What gateways and browsers send, at the port itself and behind Ray Serve's proxy."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.http_util import _apply_middlewares, validate_http_proxy_callback_return
from starlette.types import Message

from tests.serving.listening import listening

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening() as port:
        yield port


def _received(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(sent)
        received = b""
        while part := client.recv(65536):
            received += part
    return received


@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/v1/models", "/v1/models/a"])
def test_head_has_the_head_of_get_and_no_body(port: int, path: str) -> None:
    def asked(method: str) -> tuple[bytes, bytes]:
        request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        head, _, body = _received(port, request.encode()).partition(b"\r\n\r\n")
        fields = [line for line in head.splitlines() if not line.startswith((b"x-req", b"date"))]
        return b"\n".join(fields), body

    head, body = asked("HEAD")
    assert body == b""
    assert head.startswith(b"HTTP/1.1 200")
    whole, body = asked("GET")
    assert (head, len(body) > 0) == (whole, True)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_a_client_that_leaves_in_mid_upload_is_quiet(
    port: int, path: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    with caplog.at_level(logging.WARNING):
        for sent in (head.encode(), head.encode() + b'{"model": "a", "pro'):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(sent)
        ready = b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        for _ in range(5):
            assert _received(port, ready).startswith(b"HTTP/1.1 200")
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-1", True), (b"x" * 50_000, False), (b"a b", False), (b"\xff", False), (None, False)],
)
def test_serves_proxy_sends_back_and_logs_no_id_that_is_too_long(
    given: bytes | None, kept: bool
) -> None:
    base = Path(__file__).parents[2] / "k8s" / "base" / "service.yaml"
    callbacks = {
        variable["value"]
        for variable in _maps(yaml.safe_load(base.read_text()))
        if variable.get("name") == CALLBACK
    }
    layers = validate_http_proxy_callback_return(import_attr(callbacks.pop())())
    assert not callbacks
    seen: list[Any] = []

    async def proxy(scope: Any, _receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"])[b"x-request-id"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Message) -> None:
        [name] = [value for key, value in message["headers"] if key.lower() == b"x-request-id"]
        assert seen == [name]
        assert (name == given) is kept
        assert 0 < len(name) <= 128

    headers = [] if given is None else [(b"x-request-id", given)]
    scope = {"type": "http", "path": "/v1/models", "headers": headers}
    chain: list[Any] = [*layers]
    wrapped: Any = _apply_middlewares(proxy, chain)
    asyncio.run(wrapped(scope, None, send))


def _maps(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from _maps(inner)
