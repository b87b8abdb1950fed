"""The way over Ray's handle: what it does when the other side is full, gone, or breaks."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from serve_app.config import ServeConfig
from serve_app.protocol.errors import (
    ProtocolError,
    deadline_exceeded,
    draining,
    loading,
    overloaded,
)
from serve_app.protocol.messages import Item
from serve_app.serving.ingress import Ingress
from serve_app.serving.transport import client as client_module
from serve_app.serving.transport.client import HandleClient
from serve_app.serving.transport.inbox import Inbox
from tests.api.fakes import ACCEPTED, piece
from tests.serving.running import until

REPLY = {"healthy": True, "release": "r1", "detail": {}}
FULL = BackPressureError(num_queued_requests=1, max_queued_requests=1)


def job(name: str, timeout_s: float | None = None, *, streamed: bool = True) -> Any:
    return {
        "id": name,
        "streamed": streamed,
        "timeout_s": timeout_s,
        "seed": 3,
        "release": None,
    }


def opening(*items: Item, carries: bool = False) -> Any:
    return {"items": list(items or [ACCEPTED]), "carries": carries}


class FakeStream:
    """What a handle returns for a streaming call: gives what is put into it."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    def give(self, *messages: Any) -> None:
        """An exception is raised instead; None ends it."""
        for message in messages:
            self._messages.put_nowait(message)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self._messages.get()) is not None:
            if isinstance(message, Exception):
                raise message
            yield message


class FakeReply:
    """What a handle returns for another call."""

    def __init__(self, handle: "FakeHandle") -> None:
        self._handle = handle

    def __await__(self) -> Generator[None, None, Any]:
        yield
        if self._handle.error is not None:
            raise self._handle.error
        return self._handle.reply


class FakeHandle:
    """A handle whose streams are made beforehand, by job, and whose other methods answer."""

    def __init__(self, *jobs: str, error: Exception | None = None) -> None:
        self.streams = {name: FakeStream() for name in jobs}
        self.error = error
        self.reply: dict[str, Any] = REPLY
        self.aborted: list[str] = []
        self.sent: list[Any] = []
        self.ingresses: set[str] = set()
        self.options_given: dict[str, Any] = {}

    def options(self, *, stream: bool, **others: Any) -> "FakeHandle":
        assert stream
        self.options_given = others
        return self

    def broadcast(self, method: str, job: str) -> "FakeHandle":
        assert method == "abort"
        self.aborted.append(job)
        return self

    async def results_async(self, *, return_exceptions: bool) -> list[Any]:
        assert return_exceptions
        if self.error is not None:
            raise self.error
        return []

    def __getattr__(self, name: str) -> Any:
        if name not in ("send", "tokenize", "detokenize", "models", "status"):
            raise AttributeError(name)
        return self

    def remote(self, *arguments: Any) -> Any:
        match arguments:
            case ({"id": name}, ingress):
                self.sent.append(arguments[0])
                self.ingresses.add(ingress)
                return self.streams[name]
        return FakeReply(self)


async def _take(
    client: HandleClient,
    name: str,
    num: int | None = None,
    timeout_s: float | None = None,
    *,
    streamed: bool = True,
) -> list[Item]:
    """The items of a job, or the first `num`; what came at once must be a list alone at first."""
    items: list[Item] = []
    async with aclosing(client.generate(job(name, timeout_s, streamed=streamed))) as batches:
        async for batch in batches:
            assert items or len(batch) == 1
            items += batch
            if num is not None and len(items) >= num:
                break
    return items


def _run(made: FakeHandle, test: Callable[[HandleClient], Any]) -> Any:
    async def run() -> Any:
        async with asyncio.timeout(10):
            return await test(HandleClient(made))

    return asyncio.run(run())


def test_items_of_a_job_come_on_its_own_stream() -> None:
    handle = FakeHandle("a")
    handle.streams["a"].give(opening(carries=True), [("a", [piece("x")])])
    handle.streams["a"].give([("a", [piece("y", "stop")]), ("a", None)], None)
    items = _run(handle, lambda client: _take(client, "a"))
    assert items == [ACCEPTED, piece("x"), piece("y", "stop")]
    assert handle.aborted == []


def test_items_of_a_job_come_on_anothers_stream_even_before_its_first() -> None:
    async def test(client: HandleClient) -> tuple[list[Item], list[Item]]:
        first, second = (asyncio.create_task(_take(client, name)) for name in ("a", "b"))
        await asyncio.sleep(0)
        handle.streams["a"].give(opening(carries=True), [("b", [piece("y")]), ("a", None)])
        await first
        handle.streams["b"].give(opening(), None)
        handle.streams["a"].give([("b", [piece("z", "stop")]), ("b", None)], None)
        return await first, await second

    handle = FakeHandle("a", "b")
    assert _run(handle, test) == ([ACCEPTED], [ACCEPTED, piece("y"), piece("z", "stop")])
    assert len(handle.ingresses) == 1


def test_a_refusal_is_all() -> None:
    handle = FakeHandle("a")
    refusal = overloaded("full").to_item()
    handle.streams["a"].give(opening(refusal), None)
    assert _run(handle, lambda client: _take(client, "a")) == [refusal]
    assert handle.aborted == []


def test_a_job_that_is_left_is_aborted_and_its_stream_read_on() -> None:
    async def test(client: HandleClient) -> list[Item]:
        second = asyncio.create_task(_take(client, "b"))
        handle.streams["b"].give(opening())
        handle.streams["a"].give(opening(carries=True), [("a", [piece("x")])])
        assert await _take(client, "a", num=1) == [ACCEPTED]
        await until(lambda: handle.aborted == ["a"])
        handle.streams["a"].give([("a", None), ("b", [piece("y", "stop")]), ("b", None)], None)
        return await second

    handle = FakeHandle("a", "b")
    assert _run(handle, test) == [ACCEPTED, piece("y", "stop")]
    assert handle.aborted == ["a"]


def test_a_job_that_is_left_before_a_replica_has_it_is_aborted_once_it_has() -> None:
    async def test(client: HandleClient) -> None:
        asking = asyncio.create_task(_take(client, "a"))
        await asyncio.sleep(0)
        asking.cancel()
        await until(lambda: handle.aborted == ["a"])
        handle.streams["a"].give(opening(), None)
        await until(lambda: handle.aborted == ["a", "a"])

    handle = FakeHandle("a")
    _run(handle, test)


def test_an_abort_that_reaches_nobody_is_no_error() -> None:
    handle = FakeHandle("a", error=ActorDiedError())
    handle.streams["a"].give(opening())
    assert _run(handle, lambda client: _take(client, "a", num=1)) == [ACCEPTED]


@pytest.mark.parametrize(
    ("error", "code"),
    [(FULL, "server_overloaded"), (ActorDiedError(), "engine_unavailable")],
)
def test_an_engine_out_of_reach_is_a_refusal(
    error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_AWAY_S", 0.01)
    handle = FakeHandle("a", error=error)
    handle.streams["a"].give(error)
    [item] = _run(handle, lambda client: _take(client, "a"))
    assert item["type"] == "error"
    assert item["code"] == code
    with pytest.raises(ProtocolError) as caught:
        asyncio.run(HandleClient(handle).models("default"))
    assert caught.value.code == code


def test_an_engine_that_dies_in_the_middle_is_an_internal_error() -> None:
    handle = FakeHandle("a")
    handle.streams["a"].give(opening(carries=True), [("a", [piece("x")])], ActorDiedError())
    items = _run(handle, lambda client: _take(client, "a"))
    assert items[-1]["type"] == "error"
    assert items[-1]["code"] == "internal_error"


@pytest.mark.parametrize("is_accepted", [True, False])
def test_a_job_of_which_nothing_was_answered_is_sent_again_when_the_engine_is_back(
    is_accepted: bool,
) -> None:
    async def test(client: HandleClient) -> list[Item]:
        asking = asyncio.create_task(_take(client, "a"))
        await until(lambda: len(handle.sent) == 1)
        handle.error = ActorDiedError()
        handle.streams["a"].give(*([opening()] if is_accepted else []), ActorDiedError())
        await until(lambda: client._watch.is_away)
        [refusal] = await _take(client, "b")
        assert refusal["type"] == "error"
        assert refusal["code"] == "engine_unavailable"
        assert refusal["retry_after_s"] > 1
        assert len(handle.sent) == 1
        handle.error = None
        handle.streams["a.2"].give(opening(carries=True), [("a.2", [piece("x", "stop")])])
        handle.streams["a.2"].give([("a", [piece("late")]), ("a.2", None)], None)
        items = await asking
        assert await _take(client, "c") == [ACCEPTED]
        return items

    handle = FakeHandle("a", "a.2", "c")
    handle.streams["c"].give(opening(), [("c", None)], None)
    assert _run(handle, test) == [ACCEPTED, piece("x", "stop")]
    assert [sent["id"] for sent in handle.sent] == ["a", "a.2", "c"]
    assert handle.sent[1]["release"] == ("r1" if is_accepted else None)
    assert handle.sent[1]["seed"] == handle.sent[0]["seed"]


def test_a_job_that_is_not_streamed_is_sent_again_even_if_its_answer_had_begun() -> None:
    async def test(client: HandleClient) -> list[Item]:
        asking = asyncio.create_task(_take(client, "a", streamed=False))
        handle.streams["a"].give(opening(carries=True), [("a", [piece("old")])])
        await until(lambda: any(inbox.has_answer for inbox in client._open))
        handle.streams["a"].give(ActorDiedError())
        handle.streams["a.2"].give(opening(carries=True), [("a.2", [piece("x", "stop")])])
        handle.streams["a.2"].give([("a", [piece("late")]), ("a.2", None)], None)
        return await asking

    handle = FakeHandle("a", "a.2")
    items = _run(handle, test)
    assert items[items.index({"type": "again"}) + 1 :] == [piece("x", "stop")]
    assert handle.sent[1]["release"] == "r1"
    assert handle.sent[1]["seed"] == handle.sent[0]["seed"]


def test_an_answer_of_which_nothing_was_written_may_be_asked_for_later() -> None:
    async def test(client: HandleClient) -> list[Item]:
        handle.streams["a"].give(opening(carries=True), [("a", [piece("old")])], ActorDiedError())
        handle.streams["a.2"].give(opening(carries=True), [("a.2", [piece("o")])], ActorDiedError())
        return await _take(client, "a", streamed=False)

    handle = FakeHandle("a", "a.2")
    assert _run(handle, test)[-1].get("code") == "engine_unavailable"


def test_a_job_that_nobody_takes_waits_for_the_next_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "OPENS_S", 0.0)

    async def test(client: HandleClient) -> list[Item]:
        handle.error = ActorDiedError()
        asking = asyncio.create_task(_take(client, "a"))
        await until(lambda: client._watch.is_away)
        handle.streams["a"].give(opening(loading("not yet").to_item()), None)  # the next one's
        handle.error = None
        handle.streams["a.2"].give(opening(carries=True), [("a.2", [piece("x", "stop")])])
        handle.streams["a.2"].give([("a.2", None)], None)
        return await asking

    handle = FakeHandle("a", "a.2")
    assert _run(handle, test) == [ACCEPTED, piece("x", "stop")]


@pytest.mark.parametrize(("has_served", "code"), [(True, "engine_unavailable"), (False, "loading")])
def test_an_engine_that_serves_nothing_yet_is_one_that_starts_again_if_there_was_one_before(
    has_served: bool, code: str
) -> None:
    async def test(client: HandleClient) -> list[Item]:
        handle.streams["a"].give(opening(), [("a", None)], None)
        if has_served:
            assert await _take(client, "a") == [ACCEPTED]
        handle.reply = {**REPLY, "release": None}
        handle.streams["b"].give(opening(loading("not yet").to_item()), None)
        return await _take(client, "b")

    handle = FakeHandle("a", "b")
    [refusal] = _run(handle, test)
    assert refusal["type"] == "error"
    assert refusal["code"] == code


def test_a_client_is_told_to_wait_as_long_as_the_engines_own_start_took() -> None:
    async def test(client: HandleClient) -> float:
        handle.streams["a"].give(opening(), [("a", None)], None)
        await _take(client, "a", num=1)
        await until(lambda: client._watch._expected_s > 8)
        handle.error = ActorDiedError()
        client._watch.lost()
        await until(lambda: client._watch.is_away)
        [refusal] = await _take(client, "b")
        assert refusal["type"] == "error"
        return refusal["retry_after_s"]

    handle = FakeHandle("a")
    handle.reply = {**REPLY, "start_s": 20.0}
    assert 20 < _run(handle, test) <= 21


def test_a_job_is_sent_again_once_and_within_its_time() -> None:
    async def test(client: HandleClient) -> list[Item]:
        asking = asyncio.create_task(_take(client, "a", timeout_s=50))
        await until(lambda: len(handle.sent) == 1)
        await asyncio.sleep(0.02)
        handle.streams["a"].give(opening(), ActorDiedError())
        handle.streams["a.2"].give(opening(), ActorDiedError())
        return await asking

    handle = FakeHandle("a", "a.2")
    items = _run(handle, test)
    assert [item.get("code") for item in items] == [None, "engine_unavailable"]
    assert 49 < handle.sent[1]["timeout_s"] < 49.99


def test_a_job_that_is_left_while_its_engine_is_away_is_not_sent_again() -> None:
    async def test(client: HandleClient) -> None:
        asking = asyncio.create_task(_take(client, "a"))
        await until(lambda: len(handle.sent) == 1)
        handle.error = ActorDiedError()
        handle.streams["a"].give(opening(), ActorDiedError())
        await until(lambda: client._watch.is_away)
        asking.cancel()
        await asyncio.wait({asking})
        handle.error = None
        assert await client._watch.back(5)
        await asyncio.sleep(0.02)
        assert not client._open

    handle = FakeHandle("a")
    _run(handle, test)
    assert [sent["id"] for sent in handle.sent] == ["a"]


def test_an_ingress_that_drains_takes_nothing_new_and_ends_what_takes_too_long() -> None:
    async def test(client: HandleClient) -> list[list[Item]]:
        short, long = (asyncio.create_task(_take(client, name)) for name in ("a", "b"))
        for name in ("a", "b"):
            handle.streams[name].give(opening(carries=name == "a"))
        handle.streams["a"].give([("b", [piece("y")])])
        await until(lambda: all(inbox.is_open for inbox in client._open))
        draining_ = asyncio.create_task(client.drain(0.2))
        await asyncio.sleep(0.01)
        assert await _take(client, "c") == [draining().to_item()]
        with pytest.raises(ProtocolError, match="shutting down"):
            await client.tokenize({"model": "m"})  # type: ignore[typeddict-item]
        assert (await client.status())["draining"]
        handle.streams["a"].give([("a", [piece("x", "stop")]), ("a", None)])
        items = [await short, await long]
        await draining_
        return items

    handle = FakeHandle("a", "b")
    assert _run(handle, test) == [
        [ACCEPTED, piece("x", "stop")],
        [ACCEPTED, piece("y"), draining().to_item()],
    ]


def test_items_that_never_come_are_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_LATE_S", 0.01)
    handle = FakeHandle("a")
    handle.streams["a"].give(opening(), None)
    items = _run(handle, lambda client: _take(client, "a"))
    assert [item["type"] for item in items] == ["accepted", "error"]


def test_a_job_whose_engine_is_stuck_ends_in_time() -> None:
    async def test(client: HandleClient) -> list[Item]:
        items: list[Item] = []
        async with aclosing(client.generate(job("a", 0.05))) as batches:
            async for batch in batches:
                items += batch
        handle.streams["a"].give(opening(), [("a", [piece("x")]), ("a", None)], None)  # too late
        return items

    handle = FakeHandle("a")
    assert _run(handle, test) == [deadline_exceeded().to_item()]
    handle = FakeHandle("a")
    handle.streams["a"].give(opening(carries=True), [("a", [piece("x")])])
    assert _run(handle, test) == [ACCEPTED, piece("x"), deadline_exceeded().to_item()]


def test_a_job_that_has_ended_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Inbox]] = []

    def inbox(on_close: Callable[[Inbox], None]) -> Inbox:
        new = Inbox(on_close)
        made.append(weakref.ref(new))
        return new

    async def test(client: HandleClient) -> list[bool]:
        handle.streams["a"].give(opening(), [("a", [piece("x", "stop")]), ("a", None)], None)
        await _take(client, "a")
        left = asyncio.create_task(_take(client, "b", num=1))
        handle.streams["b"].give(opening(), None)
        await left
        await asyncio.sleep(0.01)
        gc.collect()
        return [one() is None for one in made]

    monkeypatch.setattr(client_module, "Inbox", inbox)
    handle = FakeHandle("a", "b")
    assert _run(handle, test) == [True, True]


def test_streams_go_over_grpc_only_where_messages_may_be_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = FakeHandle()
    monkeypatch.setenv("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(4 * 2**20))
    HandleClient(handle)
    assert "_by_reference" not in handle.options_given
    monkeypatch.setenv("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(2**31 - 1))
    HandleClient(handle)
    assert handle.options_given["_by_reference"] is False


def test_questions_are_passed_on() -> None:
    async def run() -> None:
        client = HandleClient(FakeHandle())
        asked: Any = {"model": "m"}
        for answer in (
            await client.tokenize(asked),
            await client.detokenize(asked),
            await client.models("default"),
            await client.status(),
        ):
            assert answer == REPLY

    asyncio.run(run())


def test_the_ingress_builds_its_application() -> None:
    ingress = Ingress(FakeHandle(), ServeConfig())
    assert callable(ingress.__serve_build_asgi_app__())
