"""What is said of an engine that does not answer."""

import asyncio
import logging

import pytest

from serve_app.serving.ingress import Ingress
from serve_app.serving.transport.engine_watch import EngineWatch


def _said(
    caplog: pytest.LogCaptureFixture, *, has_served: bool, begins_meanwhile: bool = False
) -> list[str]:
    async def run() -> None:
        answers = iter([False, True])

        async def serves() -> bool:
            answer = next(answers)
            if answer and begins_meanwhile:
                watch.expect(1.0)
            return answer

        watch = EngineWatch(serves)
        if has_served:
            watch.expect(1.0)
        watch.lost()
        assert await watch.back(5.0)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    return [record.message for record in caplog.records]


def test_an_engine_that_starts_is_not_said_to_be_away(caplog: pytest.LogCaptureFixture) -> None:
    assert _said(caplog, has_served=False) == []


def test_an_engine_that_was_asked_while_it_started_is_not_said_to_be_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert _said(caplog, has_served=False, begins_meanwhile=True) == []


def test_an_engine_that_served_is_said_to_be_away_and_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away, back = _said(caplog, has_served=True)
    assert "does not answer" in away
    assert "is back" in back


def test_an_ingress_that_could_not_be_made_has_no_records_to_write() -> None:
    """Serve has it write them all the same."""
    asyncio.run(Ingress.__new__(Ingress).write_usage())
