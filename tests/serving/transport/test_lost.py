"""What an exception between ingress and engine means: a dead process, or a fault of one request."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from serve_app.protocol.messages import Status
from serve_app.serving.transport.client import HandleClient

MARK = "jolly wolf"


class _RpcError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(MARK)
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code


class _Handle:
    """An engine that is there. Each job fails with `error` on its way."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.status = self
        self.send = self

    def options(self, **_: Any) -> "_Handle":
        return self

    def remote(self, *asked: Any) -> Any:
        return self._fail() if asked else self._status()

    async def _fail(self) -> AsyncGenerator[Any, None]:
        for error in (self._error,):
            raise error
        yield

    async def _status(self) -> Status:
        return {"healthy": True, "release": "r1", "detail": {}}


def _told(error: Exception) -> str:
    async def run() -> str:
        client = HandleClient(_Handle(error))
        job: Any = {"id": "j", "streamed": True, "timeout_s": None, "prompts": [MARK]}
        async for items in client.generate(job):
            return str(items[0]["code"])  # type: ignore[typeddict-item]
        raise AssertionError("nothing was said")

    return asyncio.run(run())


@pytest.mark.parametrize(
    "error",
    [
        RecursionError(MARK),
        ValueError(MARK),
        RayTaskError("send", MARK, ValueError(MARK)),
        _RpcError(grpc.StatusCode.UNKNOWN),
    ],
)
def test_what_cannot_cross_is_a_fault_of_its_request_and_is_not_quoted(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert _told(error) == "internal_error"
    assert type(error).__name__ in caplog.text
    assert MARK not in caplog.text


@pytest.mark.parametrize("error", [ActorDiedError(), _RpcError(grpc.StatusCode.UNAVAILABLE)])
def test_an_engine_that_has_died_is_said_to_be_away(error: Exception) -> None:
    assert _told(error) == "engine_unavailable"
