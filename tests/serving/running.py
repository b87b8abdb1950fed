"""A replica on fakes, and its HTTP surface in the same process, for as long as a test needs it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from serve_app.api.routes import Api, build_api
from serve_app.config import ServeConfig
from serve_app.serving.replica.replica import EngineReplica
from tests.serving.fakes import CONFIG, World


@asynccontextmanager
async def replica_of(
    world: World, config: ServeConfig = CONFIG, **target: str
) -> AsyncIterator[EngineReplica]:
    """Serving, unless nothing can be served."""
    replica = EngineReplica(config, world.parts())
    await replica.reconfigure(target or {"channel": "stable"})
    try:
        yield replica
    finally:
        await replica.aclose()


@asynccontextmanager
async def client_of(
    replica: EngineReplica, config: ServeConfig = CONFIG
) -> AsyncIterator[httpx.AsyncClient]:
    app = build_api(Api(replica, config.limits, clock=lambda: 1000.0))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Returns when it holds; fails when it does not come to hold in time.

    seconds: far more than it takes, for a machine that is busy.
    """
    async with asyncio.timeout(seconds):
        while True:
            holds: Any = condition()
            if asyncio.iscoroutine(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(0.005)


async def serves(replica: EngineReplica, release: str) -> None:
    async def now() -> bool:
        return (await replica.status())["release"] == release

    await until(now)
