"""Many jobs over one stream: what an ingress is sent by a replica on a fake engine."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from serve_app.api.requests.fields import CompletionFields
from serve_app.api.requests.jobs import completion_job
from serve_app.config import RequestLimits
from serve_app.protocol.messages import Job
from serve_app.serving.replica.replica import EngineReplica
from serve_app.serving.transport.carrier import CarrierGone
from serve_app.tenants.keyring import ANYBODY
from tests.serving.fakes import FakeLoop, world
from tests.serving.running import replica_of, serves, until


def job(name: str, **fields: Any) -> Job:
    body = {"model": "a", "prompt": "the", "max_tokens": 3, **fields}
    checked = CompletionFields.model_validate(body)
    return completion_job(checked, RequestLimits(), job=name, caller=ANYBODY)


class Reader:
    """Reads one stream of a replica to its end."""

    def __init__(self, replica: EngineReplica, sent: Job, ingress: str = "i") -> None:
        self.messages: list[Any] = []
        self.error: Exception | None = None
        self._stream = replica.send(sent, ingress)
        self.reading = asyncio.create_task(self._read(self._stream))

    async def _read(self, stream: AsyncGenerator[Any, None]) -> None:
        try:
            async with aclosing(stream):
                async for message in stream:
                    self.messages.append(message)
        except CarrierGone as error:
            self.error = error

    @property
    def parcels(self) -> list[dict[str, int | None]]:
        """Of each: how many tokens it has of which job; None where the job ends."""
        found = []
        for parcel in self.messages[1:]:
            counts: dict[str, int | None] = {}
            for name, items in parcel:
                counts[name] = None if items is None else sum(item["num_tokens"] for item in items)
            found.append(counts)
        return found


async def _step(loop: FakeLoop) -> None:
    """One step, and time for what it made to be read."""
    loop.step()
    await asyncio.sleep(0.03)


def test_what_a_step_made_for_all_jobs_is_one_parcel_on_the_first_jobs_stream() -> None:
    async def run() -> None:
        made = world(manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            readers = [Reader(replica, job(name)) for name in ("x", "y", "z")]
            await until(lambda: all(reader.messages for reader in readers))
            for _ in range(3):
                await _step(made.loop)
            async with asyncio.timeout(5):
                await asyncio.gather(*(reader.reading for reader in readers))
            assert [reader.messages[0]["carries"] for reader in readers] == [True, False, False]
            assert readers[0].parcels[:2] == [{"x": 1, "y": 1, "z": 1}] * 2
            assert readers[0].parcels[-1] == {"x": None, "y": None, "z": None}
            assert readers[1].parcels == readers[2].parcels == []

    asyncio.run(run())


def test_a_stream_carries_on_when_its_own_job_has_ended_or_was_aborted() -> None:
    async def run(aborted: bool) -> None:
        made = world(manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            first = Reader(replica, job("x", max_tokens=50 if aborted else 1))
            await until(lambda: bool(first.messages))
            second = Reader(replica, job("y"))
            await until(lambda: bool(second.messages))
            await _step(made.loop)
            if aborted:
                await replica.abort("x")
                await until(lambda: made.loop.aborted == ["x-0"])
            for _ in range(2):
                await _step(made.loop)
            await first.reading
            await second.reading
            assert {"y": 1} in first.parcels
            assert first.parcels[-1] == {"y": None}
            assert replica._open.choices.total == 0
            third = Reader(replica, job("z", max_tokens=1))
            await until(lambda: bool(third.messages))
            assert third.messages[0]["carries"]
            await _step(made.loop)
            await third.reading

    asyncio.run(run(aborted=False))
    asyncio.run(run(aborted=True))


def test_each_ingress_has_a_stream_that_carries() -> None:
    async def run() -> None:
        made = world()
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            readers = [Reader(replica, job(name), ingress=name) for name in ("x", "y")]
            async with asyncio.timeout(5):
                await asyncio.gather(*(reader.reading for reader in readers))
            for reader, name in zip(readers, ("x", "y"), strict=True):
                assert reader.messages[0]["carries"]
                assert {key for parcel in reader.parcels for key in parcel} == {name}

    asyncio.run(run())


def test_an_ingress_that_has_no_open_job_is_forgotten() -> None:
    async def run() -> None:
        made = world()
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            for name in ("x", "y"):
                await Reader(replica, job(name), ingress=name).reading
            left = Reader(replica, job("z", max_tokens=50), ingress="z")
            await until(lambda: bool(left.messages))
            left.reading.cancel()
            await asyncio.wait({left.reading})
            assert replica._sender._carriers == {}

    asyncio.run(run())


def test_a_stream_that_is_closed_before_it_is_read_carries_nothing() -> None:
    async def run() -> None:
        made = world(manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            stream = replica.send(job("x"), "i")
            opening: Any = await anext(stream)
            assert opening["carries"]
            await stream.aclose()
            second = Reader(replica, job("y", max_tokens=1))
            await until(lambda: bool(second.messages))
            assert second.messages[0]["carries"]
            await _step(made.loop)
            await second.reading

    asyncio.run(run())


def test_a_refusal_opens_and_ends_the_stream() -> None:
    async def run() -> None:
        async with replica_of(world()) as replica:
            await serves(replica, "r1")
            reader = Reader(replica, job("x", model="zz"))
            await reader.reading
            [opening] = reader.messages
            assert opening["items"][0]["code"] == "model_not_found"
            assert not opening["carries"]

    asyncio.run(run())


def test_a_job_that_waits_for_a_release_can_be_aborted() -> None:
    async def run() -> None:
        made = world()
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            replica._releases._admitting.clear()
            reader = Reader(replica, job("x"))
            await until(lambda: replica._open.choices.total == 1)
            await replica.abort("x")
            await reader.reading
            assert reader.messages == []
            assert made.loop.seen == []

    asyncio.run(run())


def test_jobs_end_with_an_error_when_the_stream_that_carries_them_is_closed() -> None:
    async def run() -> None:
        made = world(manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            first = Reader(replica, job("x", max_tokens=50))
            await until(lambda: bool(first.messages))
            second = Reader(replica, job("y", max_tokens=50))
            await until(lambda: bool(second.messages))
            await _step(made.loop)
            first.reading.cancel()
            await asyncio.wait({first.reading})
            await until(lambda: made.loop.aborted == ["x-0"])
            await _step(made.loop)
            await second.reading
            assert isinstance(second.error, CarrierGone)
            assert made.loop.aborted == ["x-0", "y-0"]
            assert replica._open.choices.total == 0

    asyncio.run(run())


@pytest.mark.parametrize("turns", range(0, 24, 3))
def test_a_stream_that_is_closed_at_any_moment_leaves_nothing_behind(turns: int) -> None:
    async def run() -> None:
        made = world(manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            reader = Reader(replica, job("x", n=2))
            for _ in range(turns):
                await asyncio.sleep(0)
            reader.reading.cancel()
            await asyncio.wait({reader.reading})
            assert made.loop.pages == 64
            assert replica._open.choices.total == 0
            assert replica._sender._jobs == {}
            assert replica._sender._carriers == {}

    asyncio.run(run())
