"""A canary beside the release of a channel: whom it answers, and what happens if it fails."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx

from consolidation.release import Canary, Side
from serve_app.api.requests.fields import TokenizeFields
from serve_app.api.requests.jobs import tokenize_job
from serve_app.serving.replica.replica import EngineReplica
from serve_app.tenants.keyring import Caller
from serve_app.tenants.keys_file import Tenant
from tests.serving.asking import refused
from tests.serving.fakes import World, source, world
from tests.serving.metric_pages import of_one
from tests.serving.running import client_of, replica_of, serves, until
from tests.serving.transport.test_sender import job

AT = datetime(2026, 11, 29, tzinfo=UTC)
BODY = {"model": "a", "prompt": "the", "max_tokens": 2}


def _canary(world: World, percent: float, release: str | None = "r2", **tenants: Side) -> None:
    world.registry.canaries["stable"] = Canary(
        release=release, percent=percent, tenants=tenants, at=AT
    )


def _two(**options: Any) -> World:
    made = world("a", **options)
    made.registry.releases["r2"] = source("r2", "a", "new")
    return made


async def _fact(replica: EngineReplica, name: str, value: object) -> None:
    async def now() -> bool:
        facts = (await replica.status())["detail"]["canary"]
        return (facts or {}).get(name) == value

    await until(now)


async def _answers(client: httpx.AsyncClient, number: int = 40, **fields: str) -> set[str]:
    """The releases that answered so many users."""
    found = set()
    for user in range(number):
        asked = {**BODY, "user": f"u{user}", **fields}
        found.add((await client.post("/v1/completions", json=asked)).json()["system_fingerprint"])
    return found


def test_a_share_of_users_is_answered_by_the_canary_and_each_by_one_release() -> None:
    async def run() -> None:
        made = _two()
        _canary(made, 50)
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            assert await _answers(client) == {"r1", "r2"}
            for user in ("x", "y", "z"):
                assert len(await _answers(client, 5, user=user)) == 1
            text = of_one((await client.get("/metrics")).text)
        assert 'release_info{release="r1",side="stable"} 1.0' in text
        assert 'release_info{release="r2",side="canary"} 1.0' in text
        assert "expertpool_canary_share 0.5" in text
        for side in ("stable", "canary"):
            labels = f'model_name="a",service_class="standard",side="{side}",tenant="default"'
            assert f"prompt_tokens_total{{{labels}}}" in text

    asyncio.run(run())


def test_a_tenant_on_the_canarys_side_sees_its_models_and_others_see_the_channels() -> None:
    async def run() -> None:
        made = world("a")
        made.registry.releases["r2"] = source("r2", "a", "new")
        _canary(made, 0, acme="canary")
        async with replica_of(made) as replica:
            await _fact(replica, "serves", True)

            async def seen(tenant: str) -> list[tuple[str, str]]:
                cards = (await replica.models(tenant))["models"]
                return [(card["id"], card["release"]) for card in cards]

            async def counts(tenant: str, model: str) -> str:
                fields = TokenizeFields.model_validate({"model": model, "prompt": "hi"})
                caller = Caller(tenant, Tenant(), "", frozenset())
                return (await replica.tokenize(tokenize_job(fields, caller)))["type"]

            assert await seen("acme") == [("a", "r2"), ("new", "r2")]
            assert await seen("zen") == [("a", "r1")]
            assert await counts("acme", "new") == "tokens"
            assert await counts("zen", "new") == "error"

    asyncio.run(run())


def test_requests_without_a_user_are_divided_one_by_one() -> None:
    async def run() -> None:
        made = _two()
        _canary(made, 50)
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            answers = [await client.post("/v1/completions", json=BODY) for _ in range(40)]
            assert {each.json()["system_fingerprint"] for each in answers} == {"r1", "r2"}

    asyncio.run(run())


def test_a_promoted_canary_answers_everybody_and_the_old_release_is_freed() -> None:
    async def run() -> None:
        made = _two()
        _canary(made, 10, default="canary")
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            assert await _answers(client, 3) == {"r2"}
            made.registry.channels["stable"] = "r2"
            await serves(replica, "r2")
            await until(lambda: made.loop.retired == ["r1"])
            _canary(made, 0, release=None)
            assert await _answers(client, 5) == {"r2"}
            assert made.loop.staged == ["r1", "r2"], "nothing is loaded again"
            text = of_one((await client.get("/metrics")).text)
        assert 'release_info{release="r2",side="stable"} 1.0' in text
        assert 'side="canary"} 1.0' not in text

    asyncio.run(run())


def test_an_aborted_canary_answers_nobody_and_is_freed() -> None:
    async def run() -> None:
        made = _two()
        _canary(made, 100)
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            assert await _answers(client, 3) == {"r2"}
            _canary(made, 0, release=None)
            await until(lambda: made.loop.retired == ["r2"])
            assert await _answers(client, 3) == {"r1"}

    asyncio.run(run())


def test_the_channels_release_answers_for_a_canary_that_cannot_be_loaded() -> None:
    async def run() -> None:
        made = _two()
        made.registry.damaged.add("r2")
        _canary(made, 100)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            await _fact(replica, "serves", False)

            async def told() -> bool:
                facts = (await replica.status())["detail"]["canary"]
                return facts is not None and "blob of r2 is damaged" in (facts["error"] or "")

            await until(told)
            assert await _answers(client, 5) == {"r1"}
            text = of_one((await client.get("/metrics")).text)
        assert "expertpool_canary_share 1.0" in text
        assert 'side="canary"} 1.0' not in text
        assert "expertpool_release_failures_total 1.0" in text

    asyncio.run(run())


def test_a_canary_that_does_not_fit_beside_the_release_makes_nobody_wait() -> None:
    async def run() -> None:
        made = _two(room=1)
        _canary(made, 100)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")

            async def told() -> bool:
                facts = (await replica.status())["detail"]["canary"]
                return facts is not None and "does not fit" in (facts["error"] or "")

            await until(told)
            assert await _answers(client, 3) == {"r1"}
            assert made.loop.retired == []

    asyncio.run(run())


def test_a_canary_gives_its_room_to_the_next_release_of_the_channel() -> None:
    async def run() -> None:
        made = _two(room=2)
        made.registry.releases["r3"] = source("r3", "a")
        _canary(made, 100)
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            made.registry.channels["stable"] = "r3"
            await serves(replica, "r3")
            assert made.loop.retired[0] == "r2", "the canary went first"
            await until(lambda: made.loop.staged == ["r1", "r2", "r3", "r2"])
            await _fact(replica, "serves", True)
            assert await _answers(client, 3) == {"r2"}

    asyncio.run(run())


def test_a_model_that_the_canary_lacks_is_answered_by_the_channels_release() -> None:
    async def run() -> None:
        made = world("a", "old")
        made.registry.releases["r2"] = source("r2", "a")
        _canary(made, 100)
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            assert await _answers(client, 2, model="old") == {"r1"}
            assert await _answers(client, 2) == {"r2"}

    asyncio.run(run())


def test_a_model_that_only_the_canary_has_is_for_its_side_alone() -> None:
    async def run() -> None:
        made = _two()
        _canary(made, 0, default="canary")
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            assert await _answers(client, 1, model="new") == {"r2"}
            _canary(made, 0)
            await _fact(replica, "tenants", {})
            asked = {**BODY, "model": "new"}
            refused(
                await client.post("/v1/completions", json=asked), 404, "model_not_found", "model"
            )

    asyncio.run(run())


def test_a_job_that_names_its_release_is_answered_by_that_one_or_not_at_all() -> None:
    async def run() -> None:
        made = _two()
        _canary(made, 100)
        async with replica_of(made) as replica:
            await _fact(replica, "serves", True)
            assert await _release_of(replica, "r1") == "r1"
            assert await _release_of(replica, "r2") == "r2"
            assert "r3" in await _release_of(replica, "r3")

    asyncio.run(run())


async def _release_of(replica: EngineReplica, release: str) -> str:
    """The release that answers a job that names one, or why none does."""
    async for items in replica.generate({**job(f"of-{release}"), "release": release}):
        item = items[0]
        if item["type"] == "accepted":
            return item["release"]
        if item["type"] == "error":
            return item["message"]
    raise AssertionError("no item came")


def test_a_canary_file_that_cannot_be_read_leaves_the_shares_as_they_were() -> None:
    async def run() -> None:
        made = _two()
        _canary(made, 100)
        async with replica_of(made) as replica, client_of(replica) as client:
            await _fact(replica, "serves", True)
            made.registry.broken_beside = True

            async def told() -> bool:
                facts = (await replica.status())["detail"]["canary"]
                return facts is not None and "not JSON" in (facts["error"] or "")

            await until(told)
            assert await _answers(client, 3) == {"r2"}

    asyncio.run(run())
