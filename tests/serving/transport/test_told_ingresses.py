"""What ends an endpoint reaches all of its ingresses, one call after another."""

import asyncio
from typing import Any

import pytest

from serve_app.serving.transport.told_ingresses import tell_ingresses


class _Handle:
    """Answers on the event loop of its first call alone, as Serve's router does, and as long as
    that runs.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def broadcast(self, method: str) -> "_Handle":
        self.told.append(method)
        return self

    async def results_async(self, **_: Any) -> list[object]:
        running = asyncio.get_running_loop()
        self._loop = self._loop or running
        if running is not self._loop:
            await asyncio.Event().wait()
        return [ValueError()] if self.told[-1] == "break" else [None]


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> _Handle:
    found = _Handle()
    monkeypatch.setattr("ray.serve.get_app_handle", lambda _: found)
    return found


def test_a_second_call_is_answered_as_the_first_is(
    handle: _Handle, caplog: pytest.LogCaptureFixture
) -> None:
    tell_ingresses("any", "drain", 0.5)
    tell_ingresses("any", "write_usage", 0.5)
    assert handle.told == ["drain", "write_usage"]
    assert not caplog.records


def test_one_that_cannot_be_asked_is_told_in_the_log_and_the_next_is_asked(
    handle: _Handle, caplog: pytest.LogCaptureFixture
) -> None:
    tell_ingresses("any", "break", 0.5)
    tell_ingresses("any", "drain", 0.5)
    assert [one.getMessage() for one in caplog.records] == [
        "break: an ingress did not answer: ValueError"
    ]
