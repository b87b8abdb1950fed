"""Requests for an alias: answered by the model it stands for, with its defaults."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx

from consolidation.release import Alias, Aliases
from serve_app.serving.replica.replica import EngineReplica
from tests.serving.asking import HELLO, chatty, refused
from tests.serving.fakes import World, world
from tests.serving.running import client_of, replica_of, serves, until

AT = datetime(2026, 11, 29, tzinfo=UTC)
CHAT: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}


def _aliased(made: World, **aliases: Alias) -> World:
    made.registry.names["stable"] = Aliases(aliases=aliases, at=AT)
    return made


async def _knows(replica: EngineReplica, name: str) -> None:
    async def now() -> bool:
        return name in [card["id"] for card in (await replica.models("default"))["models"]]

    await until(now)


def _ask(made: World, path: str, body: dict[str, Any]) -> httpx.Response:
    async def run() -> httpx.Response:
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            await _knows(replica, "fast")
            return await client.post(path, json=body)

    return asyncio.run(run())


def test_the_answer_names_the_alias_and_the_release_that_answered() -> None:
    made = _aliased(world("a", "b", answers={"b": HELLO}), fast=Alias(model="b"))
    body = _ask(made, "/v1/completions", {"model": "fast", "prompt": "the"}).json()
    assert (body["model"], body["system_fingerprint"]) == ("fast", "r1")
    assert [request.model for request in made.loop.seen] == ["b"]


def test_an_aliass_defaults_go_before_the_models_and_after_the_requests() -> None:
    alias = Alias(model="a", sampling={"temperature": 0.25, "top_k": 7}, max_tokens=3)
    made = _aliased(world("a"), fast=alias)
    asked = {"model": "fast", "prompt": "the"}
    assert _ask(made, "/v1/completions", asked).status_code == 200
    [request] = made.loop.seen
    assert (request.sampling.temperature, request.sampling.top_k) == (0.25, 7)
    assert request.max_tokens == 3
    own = {**asked, "temperature": 1.5, "max_tokens": 2}
    assert _ask(made, "/v1/completions", own).status_code == 200
    [request] = made.loop.seen
    assert (request.sampling.temperature, request.sampling.top_k) == (1.5, 7)
    assert request.max_tokens == 2


def test_a_length_that_an_alias_sets_never_refuses_a_request() -> None:
    made = _aliased(world("a"), fast=Alias(model="a", max_tokens=100_000))
    assert _ask(made, "/v1/completions", {"model": "fast", "prompt": "the"}).status_code == 200


def test_an_aliass_system_message_is_for_chats_without_one() -> None:
    alias = Alias(model="a", system="be brief", chat_template_kwargs={"mood": "calm"})
    made = _aliased(chatty(), fast=alias)
    count = _ask(made, "/tokenize", CHAT).json()["tokens"]
    assert _ask(made, "/v1/chat/completions", CHAT).status_code == 200
    assert list(made.loop.seen[0].prompt) == count
    full = [{"role": "system", "content": "be brief"}, *CHAT["messages"]]
    assert _tokens(made, full, mood="calm") == count
    own = [{"role": "system", "content": "be long"}, *CHAT["messages"]]
    asked = {"model": "fast", "messages": own, "chat_template_kwargs": {"mood": "wild"}}
    assert _ask(made, "/v1/chat/completions", asked).status_code == 200
    assert list(made.loop.seen[0].prompt) == _tokens(made, own, mood="wild")


def _tokens(made: World, messages: list[dict[str, str]], **variables: str) -> Any:
    asked = {"model": "a", "messages": messages, "chat_template_kwargs": variables}
    return _ask(made, "/tokenize", asked).json()["tokens"]


def test_models_are_listed_with_their_aliases_and_what_those_stand_for() -> None:
    async def run() -> list[dict[str, Any]]:
        made = _aliased(world("a", "b"), fast=Alias(model="b"), lost=Alias(model="gone"))
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            await _knows(replica, "fast")
            assert (await client.get("/v1/models/fast")).json()["root"] == "b"
            gone = await client.post("/v1/completions", json={"model": "lost", "prompt": "the"})
            assert "'lost'" in refused(gone, 404, "model_not_found", "model")
            data: list[dict[str, Any]] = (await client.get("/v1/models")).json()["data"]
            return data

    roots = {card["id"]: card["root"] for card in asyncio.run(run())}
    assert roots == {"a": "a", "b": "b", "fast": "b"}


def test_a_file_that_cannot_be_read_leaves_the_aliases_as_they_were_and_says_so() -> None:
    async def run() -> None:
        made = _aliased(world("a"), fast=Alias(model="a"))
        async with replica_of(made) as replica, client_of(replica) as client:
            await _knows(replica, "fast")
            made.registry.broken_beside = True

            async def told() -> bool:
                return (await replica.status())["detail"]["aliases_error"] is not None

            await until(told)
            asked = {"model": "fast", "prompt": "the"}
            assert (await client.post("/v1/completions", json=asked)).status_code == 200
            assert "not JSON" in (await replica.status())["detail"]["aliases_error"]
            made.registry.names["stable"] = Aliases(aliases={"new": Alias(model="a")}, at=AT)
            made.registry.broken_beside = False
            await _knows(replica, "new")
            refused(
                await client.post("/v1/completions", json=asked), 404, "model_not_found", "model"
            )
            assert (await replica.status())["detail"]["aliases_error"] is None

    asyncio.run(run())


def test_a_pinned_release_has_no_aliases() -> None:
    async def run() -> None:
        made = _aliased(world("a"), fast=Alias(model="a"))
        async with replica_of(made, release="r1") as replica:
            await serves(replica, "r1")
            await asyncio.sleep(0.05)
            assert [card["id"] for card in (await replica.models("default"))["models"]] == ["a"]

    asyncio.run(run())
