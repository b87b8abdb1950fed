"""A replica that has nothing to serve yet: how long it waits, and what it says meanwhile."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serve_app.errors import EngineError
from serve_app.serving import engine_deployment
from serve_app.serving.engine_deployment import EngineDeployment
from serve_app.serving.replica.follow import Failure, FollowState
from serve_app.serving.replica.replica import EngineReplica
from serve_app.serving.replica.telling.readiness import Unserved, until_serving, waits_for
from tests.serving.fakes import CONFIG, World, world
from tests.serving.running import replica_of, until

DAMAGED = Failure("r1", "BadRelease: a blob was altered", at=0.0, attempts=1)


class _AnyRelease(str):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    __hash__ = str.__hash__


class _Deployed(EngineDeployment):
    """Without what Serve awaits when a replica stops."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


def _run(made: World, test: Callable[[EngineReplica], Awaitable[None]], **config: Any) -> None:
    async def run() -> None:
        async with replica_of(made, CONFIG.model_copy(update=config)) as replica:
            await test(replica)

    asyncio.run(run())


def _missing(made: World) -> None:
    made.registry.channels.clear()


def _empty(made: World) -> None:
    made.registry.channels.clear()
    made.registry.releases.clear()


def _damaged(made: World) -> None:
    made.registry.channels["stable"] = "r0"


@pytest.mark.parametrize("harm", [_missing, _empty, _damaged])
def test_a_replica_is_ready_only_when_a_release_serves(harm: Callable[[World], None]) -> None:
    made = world()
    whole = dict(made.registry.releases)
    harm(made)

    async def test(replica: EngineReplica) -> None:
        waiting = asyncio.create_task(replica.until_serving())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        made.registry.releases.update(whole)
        made.registry.channels["stable"] = "r1"
        async with asyncio.timeout(10):
            await waiting
        assert (await replica.status())["release"] == "r1"

    _run(made, test)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (FollowState(trouble="there is no channel 'stable'"), "there is no channel 'stable'"),
        (FollowState(wanted="r1", failure=DAMAGED), "release r1, to be tried again in 5 s: BadRel"),
        (FollowState(wanted="r2", staging="r2", failure=DAMAGED), "release r2 is being loaded"),
        (FollowState(), "the channel is being read"),
    ],
)
def test_what_waits_says_again_and_again_what_for(
    state: FollowState, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert waits_for(state).startswith(why)

    async def run() -> None:
        following: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(60))
        serves = asyncio.Event()
        waiting = asyncio.create_task(
            until_serving(serves, following, "family 'f' of s3://b", state, lambda: None, 0.01)
        )
        await until(lambda: len(caplog.records) >= 3)
        serves.set()
        await waiting
        following.cancel()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert all(f"family 'f' of s3://b: {why}" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("ends", "trouble", "why"),
    [(False, "the engine has stopped", "has stopped"), (True, None, "looks for releases")],
)
def test_a_wait_that_can_have_no_end_fails(ends: bool, trouble: str | None, why: str) -> None:
    async def run() -> None:
        following: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(0 if ends else 60))
        async with asyncio.timeout(10):
            await until_serving(
                asyncio.Event(), following, "x", FollowState(), lambda: trouble, 0.05
            )

    with pytest.raises(EngineError, match=why):
        asyncio.run(run())


def test_nothing_to_serve_is_a_trouble_only_after_something_was_served_and_long_enough() -> None:
    now = 0.0
    unserved = Unserved(10.0, lambda: now)
    state = FollowState(trouble="there is no channel 'x'")
    assert unserved.trouble(None, state) is None
    now = 100.0
    assert unserved.trouble(None, state) is None
    assert unserved.trouble("r1", state) is None
    now = 109.0
    assert unserved.trouble(None, state) is None
    now = 111.0
    assert unserved.trouble(None, state) == (
        "nothing has been served for 11 s: there is no channel 'x'"
    )
    assert unserved.trouble("r1", state) is None


def test_a_replica_whose_releases_are_all_gone_is_unhealthy_and_says_why() -> None:
    made = world(room=1)

    async def test(replica: EngineReplica) -> None:
        await replica.until_serving()
        await replica.check_health()
        made.loop.fail_staging = _AnyRelease("any")
        made.registry.channels["stable"] = "r2"

        async def unhealthy() -> bool:
            status = await replica.status()
            return status["detail"]["failed_release"] == "r2" and not status["healthy"]

        await until(unhealthy)
        with pytest.raises(EngineError, match=r"nothing has been served for .* a slot is damaged"):
            await replica.check_health()

    made.registry.releases["r2"] = made.registry.releases["r1"].__class__(
        "r2", made.registry.releases["r1"].models
    )
    _run(made, test, reload="drain", unserved_s=0.1)


@pytest.mark.parametrize("waits", [True, False])
def test_only_the_first_reconfigure_waits_and_only_where_serve_routes(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_deployment, "listen_where_ray_does", lambda: None)
    monkeypatch.setattr(engine_deployment, "log_as", lambda *_: None)

    async def run() -> None:
        made = world()
        _missing(made)
        deployed = _Deployed(CONFIG.model_dump(mode="json"), waits=waits)
        replica = EngineReplica(CONFIG, made.parts())

        async def started() -> EngineReplica:
            return replica

        monkeypatch.setattr(deployed, "_started", started)
        first = asyncio.create_task(deployed.reconfigure({"channel": "stable"}))
        await until(lambda: replica._follower.state.trouble is not None)
        await asyncio.sleep(0.05)
        assert first.done() is not waits
        made.registry.channels["stable"] = "r1"
        async with asyncio.timeout(10):
            await first
        async with asyncio.timeout(1):
            await deployed.reconfigure({"channel": "another"})
        await replica.aclose()

    asyncio.run(run())
