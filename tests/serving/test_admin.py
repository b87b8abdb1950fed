"""What those who run a replica see of it and change in its memory, over HTTP."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import pytest

from consolidation.release import Alias, Aliases, Canary
from serve_app.serving.replica.replica import EngineReplica
from tests.serving.asking import refused
from tests.serving.fakes import World, source, world
from tests.serving.metric_pages import of_one
from tests.serving.running import client_of, replica_of, serves, until

AT = datetime(2026, 11, 29, tzinfo=UTC)


async def _section(client: httpx.AsyncClient, name: str) -> Any:
    [replica] = (await client.get(f"/admin/{name}")).json()["replicas"]
    assert set(replica) == {"replica", name}
    return replica[name]


async def _states(client: httpx.AsyncClient) -> dict[str, str]:
    return {one["release"]: one["state"] for one in await _section(client, "releases")}


async def _pinned(client: httpx.AsyncClient) -> set[tuple[str, str]]:
    places = (await _section(client, "residency"))["places"]
    held = [place["models"][0] for place in places if place.get("pinned")]
    return {(model["release"], model["model"]) for model in held}


def _world() -> World:
    made = world("a", "b", room=3)
    for release in ("r2", "r3"):
        made.registry.releases[release] = source(release, "a", "c")
    return made


def test_releases_are_told_with_their_states_and_why_one_failed() -> None:
    async def run() -> None:
        made = _world()
        made.registry.canaries["stable"] = Canary(release="r2", percent=5, at=AT)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")

            async def both() -> bool:
                return await _states(client) == {"r1": "serving", "r2": "canary"}

            await until(both)
            made.registry.damaged.add("r3")
            made.registry.channels["stable"] = "r3"

            async def failed() -> bool:
                return (await _states(client)).get("r3") == "failed"

            await until(failed)
            told = await _section(client, "releases")
            assert "blob of r3 is damaged" in told[-1]["error"]
            channels = await _section(client, "channels")
            assert (channels["serving"], channels["wanted"]) == ("r1", "r3")
            assert channels["canary"]["percent"] == 5

    asyncio.run(run())


def test_aliases_and_the_queue_by_tenant_are_told() -> None:
    async def run() -> None:
        made = world("a", manual=True)
        made.registry.names["stable"] = Aliases(aliases={"fast": Alias(model="a")}, at=AT)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            body = {"model": "a", "prompt": "the", "max_tokens": 2}
            asking = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: bool(made.loop.seen))
            queue = await _section(client, "queue")
            assert queue["tenants"]["default"]["num_running"] == 1
            text = of_one((await client.get("/metrics")).text)
            assert 'expertpool_tenant_requests_running{tenant="default"} 1.0' in text
            while not asking.done():
                made.loop.step()
                await asyncio.sleep(0.01)
            text = of_one((await client.get("/metrics")).text)
            assert 'expertpool_tenant_requests_running{tenant="default"} 0.0' in text
            aliases = await _section(client, "aliases")
            assert aliases["aliases"]["fast"]["model"] == "a"

    asyncio.run(run())


def test_a_model_is_loaded_pinned_unpinned_and_unloaded() -> None:
    async def run() -> None:
        made = _world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            for action in ("load", "pin"):
                answer = await client.post(f"/admin/models/a/{action}")
                assert answer.status_code == 200
                told = answer.json()
                assert (told["model"], told["action"]) == ("a", action)
                assert [one["release"] for one in told["replicas"]] == ["r1"]
            assert await _pinned(client) == {("r1", "a")}
            assert (await _section(client, "residency"))["pins"] == ["a"]
            refused(await client.post("/admin/models/a/unload"), 400, None, "model")
            assert (await client.post("/admin/models/a/unpin")).status_code == 200
            assert (await client.post("/admin/models/a/unload")).status_code == 200
            places = (await _section(client, "residency"))["places"]
            assert [place["state"] for place in places] == ["empty"] * 3
            missing = await client.post("/admin/models/zz/load")
            refused(missing, 404, "model_not_found", "model")

    asyncio.run(run())


def test_a_pin_beyond_the_places_is_refused_with_numbers_and_pins_nothing() -> None:
    async def run() -> None:
        made = _world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            made.loop.num_places = 2
            assert (await client.post("/admin/models/a/pin")).status_code == 200
            said = refused(await client.post("/admin/models/b/pin"), 400, None, "model")
            assert "2 do not fit in 2 places" in said
            assert (await _section(client, "residency"))["pins"] == ["a"]

    asyncio.run(run())


def test_a_pin_is_of_the_model_in_whichever_release_is_served() -> None:
    async def run() -> None:
        made = _world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            for model in "ab":
                await client.post(f"/admin/models/{model}/pin")
            made.registry.channels["stable"] = "r2"
            await serves(replica, "r2")

            async def moved() -> bool:
                return await _pinned(client) == {("r2", "a")}

            await until(moved)
            assert (await client.post("/admin/models/b/unpin")).status_code == 200, "it is gone"
            assert (await _section(client, "residency"))["pins"] == ["a"]

    asyncio.run(run())


def test_an_alias_names_the_model_it_stands_for() -> None:
    async def run() -> None:
        made = _world()
        made.registry.names["stable"] = Aliases(aliases={"fast": Alias(model="b")}, at=AT)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")

            async def pins() -> bool:
                return (await client.post("/admin/models/fast/pin")).status_code == 200

            await until(pins)
            assert await _pinned(client) == {("r1", "b")}

    asyncio.run(run())


def test_before_a_release_is_served_nothing_can_be_loaded() -> None:
    async def run() -> None:
        made = _world()
        made.registry.damaged.add("r1")
        async with replica_of(made) as replica, client_of(replica) as client:
            assert isinstance(replica, EngineReplica)
            refused(await client.post("/admin/models/a/load"), 503, "loading", None)
            assert await _section(client, "queue") == {}

    asyncio.run(run())


def _has_lost(caplog: pytest.LogCaptureFixture, times: int) -> bool:
    return caplog.text.count("pins were lost") == times


def test_pins_that_cannot_be_renewed_stop_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        made = _world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            await client.post("/admin/models/a/pin")
            made.loop.num_places = 1
            for number, release in enumerate(("r2", "r3"), start=1):
                made.registry.channels["stable"] = release
                await serves(replica, release)
                await until(partial(_has_lost, caplog, number))

    asyncio.run(run())
