"""Metrics of several replicas: none is lost, none is taken for another, and the old ones go."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.serving.replica.replica import EngineReplica
from serve_app.serving.transport.client import HandleClient
from tests.serving.asking import HELLO
from tests.serving.fakes import World, source, world
from tests.serving.metric_pages import of_one
from tests.serving.running import client_of, replica_of, serves, until


class Several:
    """A handle to replicas in this process: what is broadcast, all of them answer."""

    def __init__(self, *replicas: EngineReplica) -> None:
        self._replicas = replicas

    def options(self, **_: Any) -> "Several":
        return self

    def broadcast(self, method: str) -> "Several":
        self._method = method
        return self

    async def results_async(self, *, timeout_s: float) -> list[Any]:
        assert timeout_s > 0
        return [await getattr(replica, self._method)() for replica in self._replicas]


def samples(page: str, name: str) -> dict[str, float]:
    """Sums by replica."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == f"expertpool_{name}":
                replica = sample.labels["replica"]
                found[replica] = found.get(replica, 0) + sample.value
    return found


async def _ask(replica: EngineReplica, num: int) -> None:
    async with client_of(replica) as client:
        body = {"model": "a", "prompt": "the", "max_tokens": 5}
        for _ in range(num):
            assert (await client.post("/v1/completions", json=body)).status_code == 200


def test_an_ingress_shows_what_each_replica_has_counted_and_each_family_once() -> None:
    async def run() -> None:
        async with replica_of(world()) as first, replica_of(world()) as second:
            await serves(first, "r1")
            await serves(second, "r1")
            await _ask(first, 2)
            await _ask(second, 3)
            page = await HandleClient(Several(first, second)).metrics()
        assert samples(page, "generation_tokens_total") == {first.name: 10.0, second.name: 15.0}
        assert samples(page, "ready") == {first.name: 1.0, second.name: 1.0}
        kinds = [line for line in page.splitlines() if line.startswith("# TYPE")]
        assert len(kinds) == len(set(kinds)) > 40
        assert len({line.split()[2] for line in kinds}) == len(kinds)

    asyncio.run(run())


def test_figures_are_sums_without_tenants_releases_or_distributions() -> None:
    async def run() -> None:
        async with replica_of(world()) as replica:
            await serves(replica, "r1")
            await _ask(replica, 2)
            found = replica.view.figures(("model_name", "finished_reason"))
            labels = {label for figure in found for label in figure.labels}
            assert labels == {"model_name", "finished_reason"}
            by_name = {figure.name: figure for figure in found}
            assert by_name["expertpool_generation_tokens_total"].value == 10
            assert by_name["expertpool_generation_tokens_total"].is_total
            assert not by_name["expertpool_ready"].is_total
            assert not [name for name in by_name if "release_info" in name or "bucket" in name]

    asyncio.run(run())


def _two_releases() -> World:
    made = world("a", "b")
    made.registry.releases["r2"] = source("r2", "a", "c")
    return made


def test_series_of_a_model_go_when_no_release_has_it_any_more() -> None:
    async def run() -> None:
        made = _two_releases()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            for model in ("a", "b"):
                body = {"model": model, "prompt": "the", "max_tokens": 2}
                assert (await client.post("/v1/completions", json=body)).status_code == 200
            assert 'model_name="b"' in await replica.metrics()
            made.registry.channels["stable"] = "r2"
            await serves(replica, "r2")
            await until(lambda: bool(made.loop.retired))

            async def forgotten() -> bool:
                return 'model_name="b"' not in await replica.metrics()

            await until(forgotten)
            page = of_one(await replica.metrics())
            assert 'model_name="a"' in page
            assert 'release="r1"' not in page
            assert page.count('release="r2"') == 1

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["none", "channel", "release"])
def test_gauges_say_whether_a_replica_is_where_it_should_be(fault: str) -> None:
    async def run() -> None:
        made = _two_releases()
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            made.registry.broken = fault == "channel"
            if fault == "release":
                made.registry.damaged.add("r2")
                made.registry.channels["stable"] = "r2"
            expected = {
                "ready": 1.0,
                "channel_readable": float(fault != "channel"),
                "wanted_is_serving": float(fault != "release"),
                "staging": 0.0,
                "open_choices": 0.0,
            }

            async def shown() -> bool:
                page = of_one(await replica.metrics())
                return all(f"expertpool_{n} {value}\n" in page for n, value in expected.items())

            await until(shown)

    asyncio.run(run())


def test_choices_are_open_while_they_run() -> None:
    async def run() -> None:
        made = world(manual=True, answers={"a": HELLO})
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            body = {"model": "a", "prompt": "the", "max_tokens": 1, "n": 3}
            asking = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: len(made.loop.seen) == 3)
            page = of_one(await replica.metrics())
            assert "expertpool_open_choices 3.0\n" in page
            assert "expertpool_max_open_choices 1024.0\n" in page
            made.loop.step()
            await asking

    asyncio.run(run())


def test_a_replica_without_a_release_is_not_ready_and_what_is_wanted_does_not_serve() -> None:
    async def run() -> None:
        made = world()
        made.registry.channels.clear()
        async with replica_of(made) as replica:
            page = of_one(await replica.metrics())
            assert "expertpool_ready 0.0\n" in page
            assert "expertpool_wanted_is_serving 0.0\n" in page

    asyncio.run(run())
