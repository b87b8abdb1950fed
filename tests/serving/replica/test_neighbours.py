"""Replicas take turns, and tell routers what they hold."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from consolidation.release import Alias, Aliases, Canary
from serve_app.serving.replica.replica import EngineReplica
from serve_app.serving.routing.replica_facts import ReplicaFacts
from tests.serving.fakes import CONFIG, World, source, world
from tests.serving.metric_pages import of_one
from tests.serving.running import replica_of, serves, until

AT = datetime(2026, 11, 30, tzinfo=UTC)
DRAINING = CONFIG.model_copy(update={"reload": "drain"})


class Turns:
    """Neighbours of whom one has the turn, until it is `free`."""

    hear_s = 0.0

    def __init__(self) -> None:
        self.free = False
        self.told: list[str] = []

    async def take_turn(self) -> bool:
        self.told.append("take")
        return self.free

    async def end_turn(self) -> None:
        self.told.append("end")


def _with(neighbours: Turns, made: World) -> EngineReplica:
    return EngineReplica(CONFIG, replace(made.parts(), neighbours=neighbours))


async def _aimed(replica: EngineReplica) -> None:
    await replica.reconfigure({"channel": "stable"})
    await serves(replica, "r1")


def test_a_first_release_waits_for_no_turn_and_a_next_one_does() -> None:
    async def run() -> None:
        made, turns = world("a"), Turns()
        made.registry.releases["r2"] = source("r2", "a")
        replica = _with(turns, made)
        try:
            await _aimed(replica)
            assert "take" not in turns.told
            made.registry.channels["stable"] = "r2"
            await until(lambda: turns.told.count("take") > 2)
            assert (await replica.status())["release"] == "r1"
            assert "waiting_for_turn 1.0" in of_one(await replica.metrics())
            turns.told.clear()
            turns.free = True
            await serves(replica, "r2")
            await until(lambda: turns.told[-1] == "end")
            assert "waiting_for_turn 0.0" in of_one(await replica.metrics())
            assert turns.told.count("end") == 1
        finally:
            await replica.aclose()

    asyncio.run(run())


def test_a_turn_ends_where_a_release_cannot_be_taken_up() -> None:
    async def run() -> None:
        made, turns = world("a"), Turns()
        replica = _with(turns, made)
        try:
            await _aimed(replica)
            turns.told.clear()
            turns.free = True
            made.registry.channels["stable"] = "missing"
            await until(lambda: "end" in turns.told)
            assert (await replica.status())["release"] == "r1"
        finally:
            await replica.aclose()

    asyncio.run(run())


def test_a_canary_is_loaded_in_turn() -> None:
    async def run() -> None:
        made, turns = world("a"), Turns()
        made.registry.releases["r2"] = source("r2", "a")
        replica = _with(turns, made)
        try:
            await _aimed(replica)
            made.registry.canaries["stable"] = Canary(release="r2", percent=50, at=AT)
            await until(lambda: turns.told.count("take") > 2)
            assert 'side="canary"' not in await replica.metrics()
            turns.told.clear()
            turns.free = True
            await until(lambda: "end" in turns.told)
            assert 'side="canary"' in await replica.metrics()
        finally:
            await replica.aclose()

    asyncio.run(run())


def test_routers_are_told_what_is_on_the_device_and_that_a_replica_leaves() -> None:
    async def run() -> None:
        made = world("a", "b")
        made.registry.names["stable"] = Aliases(aliases={"prod": Alias(model="a")}, at=AT)
        async with replica_of(made, DRAINING) as replica:
            assert replica.view.facts() == ReplicaFacts()
            await serves(replica, "r1")
            made.loop.resident.add(("r1", "a"))
            await until(lambda: replica.view.facts().resident == {"a", "prod"})
            facts = replica.view.facts()
            assert facts.releases == {"r1"}
            assert (facts.admits, facts.has_all) == (True, False)
            made.loop.resident.add(("r1", "b"))
            assert replica.view.facts().has_all
            assert replica.view.facts().has_room
            made.loop.num_places = 2
            assert not replica.view.facts().has_room

    asyncio.run(run())
