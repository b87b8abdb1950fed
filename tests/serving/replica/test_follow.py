"""Following a channel: what is taken up, when, and what happens where it cannot be."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from consolidation.release import Alias, Aliases
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.loading.outages import Outage
from serve_app.errors import EngineError
from serve_app.serving.replica import served_releases
from serve_app.serving.replica.follow import Failure, Follower, Situation, decide
from serve_app.serving.replica.replica import EngineReplica
from tests.serving.fakes import CONFIG, FakeModel, FakeSource, World, source, world
from tests.serving.metric_pages import of_one
from tests.serving.running import client_of, replica_of, serves, until

DRAINING = CONFIG.model_copy(update={"reload": "drain"})
BODY = {"model": "a", "prompt": "the", "max_tokens": 5}


def _situation(**change: Any) -> Situation:
    return Situation(**{"serving": "r1", "wanted": "r2", "failure": None, "now": 100.0, **change})


def test_what_is_wanted_is_taken_up() -> None:
    assert decide(_situation()) == "r2"
    assert decide(_situation(serving=None)) == "r2"


def test_nothing_is_done_where_all_is_as_wanted() -> None:
    assert decide(_situation(wanted="r1")) is None
    assert decide(_situation(wanted=None)) is None


def test_a_failed_release_is_tried_again_later_and_later() -> None:
    failures = [Failure("r2", "damaged", at=0.0, attempts=attempts) for attempts in range(1, 12)]
    waits = [failure.retry_at for failure in failures]
    assert waits == sorted(waits)
    assert waits[-1] == waits[-2] == 300
    for failure in failures:
        assert decide(_situation(failure=failure, now=failure.retry_at - 1)) is None
        assert decide(_situation(failure=failure, now=failure.retry_at)) == "r2"


def test_what_was_loaded_is_let_go_before_it_is_tried_again() -> None:
    """Without that, two engines were in memory at once."""

    class Engine:
        pass

    alive: list[weakref.ref[Engine]] = []

    async def refused(future: asyncio.Future[None]) -> None:
        future.set_exception(EngineError("no"))
        await future  # whose error holds this frame, which holds it

    async def take_up(release: str) -> None:
        engine = Engine()
        alive.append(weakref.ref(engine))
        await refused(asyncio.get_running_loop().create_future())

    async def look() -> Failure | None:
        follower = Follower(lambda _: None, take_up, lambda: None, poll_s=1, clock=lambda: 0)
        follower.aim(UserConfig(release="1" * 16))
        await follower.look()
        return follower.state.failure

    gc.disable()
    try:
        failure = asyncio.run(look())
        assert failure is not None
        assert failure.reason == "EngineError: no"
        assert [each() for each in alive] == [None]
    finally:
        gc.enable()


def test_a_failure_does_not_keep_another_release_away() -> None:
    failure = Failure("r2", "damaged", at=100.0, attempts=1)
    assert decide(_situation(wanted="r3", failure=failure)) == "r3"


def test_a_user_config_names_a_channel_or_a_release() -> None:
    for wrong in ({}, {"channel": "a", "release": "b"}, {"chanel": "a"}, {"channel": ""}):
        with pytest.raises(ValidationError):
            UserConfig.model_validate(wrong)


def _run(
    test: Callable[[World, EngineReplica], Awaitable[None]],
    config: ServeConfig = CONFIG,
    **options: Any,
) -> None:
    async def run() -> None:
        made = world(**options)
        made.registry.releases["r2"] = source("r2", "a", "c")
        async with replica_of(made, config) as replica:
            await serves(replica, "r1")
            await test(made, replica)

    asyncio.run(run())


def test_a_moved_channel_is_followed_and_the_old_release_retired() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.registry.channels["stable"] = "r2"
        await serves(replica, "r2")
        await until(lambda: made.loop.retired == ["r1"])
        models = await replica.models("default")
        assert [card["id"] for card in models["models"]] == ["a", "c"]
        assert len(made.loops) == 1

    _run(test)


def test_running_requests_end_on_the_release_they_began_with() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        async with client_of(replica) as client:
            old = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: len(made.loop.seen) == 1)
            made.registry.channels["stable"] = "r2"
            await serves(replica, "r2")
            new = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: len(made.loop.seen) == 2)
            assert made.loop.retired == []
            for _ in range(5):
                made.loop.step()
            assert (await old).json()["system_fingerprint"] == "r1"
            assert (await new).json()["system_fingerprint"] == "r2"
            await until(lambda: made.loop.retired == ["r1"])

    _run(test, manual=True)


def test_going_back_before_the_old_release_ended_needs_no_staging() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        async with client_of(replica) as client:
            old = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: len(made.loop.seen) == 1)
            for release in ("r2", "r1"):
                made.registry.channels["stable"] = release
                await serves(replica, release)
            await until(lambda: made.loop.retired == ["r2"])
            for _ in range(5):
                made.loop.step()
            assert (await old).status_code == 200
            assert made.loop.staged == ["r1", "r2"]
            made.registry.channels["stable"] = "r2"
            await serves(replica, "r2")
            await until(lambda: made.loop.retired == ["r2", "r1"])

    _run(test, manual=True)


@pytest.mark.parametrize("trouble", ["damaged", "staging", "absent"])
def test_a_release_that_cannot_be_taken_up_leaves_the_old_one(trouble: str) -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        wanted = "r2"
        if trouble == "damaged":
            made.registry.damaged.add("r2")
        elif trouble == "staging":
            made.loop.fail_staging = "r2"
        else:
            wanted = "r9"
        made.registry.channels["stable"] = wanted

        async def reported() -> bool:
            return bool((await replica.status())["detail"]["failed_release"] == wanted)

        await until(reported)
        status = await replica.status()
        assert (status["healthy"], status["release"]) == (True, "r1")
        assert "EngineError" in status["detail"]["error"]
        assert "expertpool_release_failures_total 1.0" in of_one(await replica.metrics())
        async with client_of(replica) as client:
            response = await client.post("/v1/completions", json=BODY)
            assert response.json()["system_fingerprint"] == "r1"

    _run(test)


def test_a_release_of_another_family_is_not_taken_up() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        config = {**made.registry.releases["r1"].models["a"].config, "rms_norm_eps": 0.1}
        made.registry.releases["r2"] = FakeSource("r2", {"a": FakeModel(config, {})})
        made.registry.channels["stable"] = "r2"

        async def reported() -> bool:
            return bool((await replica.status())["detail"]["failed_release"] == "r2")

        await until(reported)
        status = await replica.status()
        assert status["release"] == "r1"
        assert "rms_norm_eps is 0.1, and 1e-05 in the served release" in status["detail"]["error"]

    _run(test)


def test_a_registry_that_is_away_changes_nothing() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.registry.broken = True

        async def reported() -> bool:
            return "away" in str((await replica.status())["detail"]["channel_error"])

        await until(reported)
        assert (await replica.status())["release"] == "r1"
        made.registry.broken = False
        made.registry.channels["stable"] = "r2"
        await serves(replica, "r2")
        assert (await replica.status())["detail"]["channel_error"] is None

    _run(test)


def test_a_channel_that_goes_away_leaves_what_is_served() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.registry.channels.clear()

        async def reported() -> bool:
            return "no channel" in str((await replica.status())["detail"]["channel_error"])

        await until(reported)
        assert (await replica.status())["release"] == "r1"

    _run(test)


def test_aliases_stay_while_a_registry_is_out_of_sight() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        async def names() -> set[str]:
            return {card["id"] for card in (await replica.models("default"))["models"]}

        async def has_alias() -> bool:
            return "fast" in await names()

        aliases = {"fast": Alias(model="a")}
        made.registry.names["stable"] = Aliases(aliases=aliases, at=datetime.now(UTC))
        await until(has_alias)
        made.registry.channels.clear()
        made.registry.names.clear()
        await asyncio.sleep(5 * CONFIG.poll_s)
        assert await has_alias()

    _run(test)


def test_a_release_can_be_pinned() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        await replica.reconfigure({"release": "r2"})
        await serves(replica, "r2")
        made.registry.channels["stable"] = "r1"
        await asyncio.sleep(0.1)
        assert (await replica.status())["release"] == "r2"

    _run(test)


def test_without_room_for_both_new_requests_wait_and_none_fails() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        async with client_of(replica) as client:
            old = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: len(made.loop.seen) == 1)
            made.registry.channels["stable"] = "r2"
            await until_staging(replica, "r2")
            await asyncio.sleep(0.05)
            new = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await asyncio.sleep(0.05)
            assert len(made.loop.seen) == 1
            for _ in range(5):
                made.loop.step()
            await until(lambda: len(made.loop.seen) == 2)
            for _ in range(5):
                made.loop.step()
            assert (await old).json()["system_fingerprint"] == "r1"
            assert (await new).json()["system_fingerprint"] == "r2"
            assert made.loop.retired == ["r1"]

    _run(test, DRAINING, manual=True, room=1)


def test_a_release_that_fits_not_even_alone_does_not_disturb_the_old_one() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.loop.too_large = "r2"
        async with client_of(replica) as client:
            running = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: len(made.loop.seen) == 1)
            made.registry.channels["stable"] = "r2"

            async def reported() -> bool:
                return bool((await replica.status())["detail"]["failed_release"] == "r2")

            await until(reported)  # though a request runs, which a swap would have waited for
            new = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: len(made.loop.seen) == 2)
            for _ in range(5):
                made.loop.step()
            for task in (running, new):
                assert (await task).json()["system_fingerprint"] == "r1"
        assert made.loop.retired == []

    _run(test, DRAINING, manual=True, room=1)


def test_a_swap_that_fails_brings_the_old_release_back() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.loop.fail_staging = "r2"
        made.registry.channels["stable"] = "r2"

        async def reported() -> bool:
            return bool((await replica.status())["detail"]["failed_release"] == "r2")

        await until(reported)
        assert made.loop.staged == ["r1", "r1"]
        async with client_of(replica) as client:
            response = await client.post("/v1/completions", json=BODY)
            assert response.json()["system_fingerprint"] == "r1"

    _run(test, DRAINING, room=1)


async def until_staging(replica: EngineReplica, release: str) -> None:
    async def staging() -> bool:
        return bool((await replica.status())["detail"]["staging"] == release)

    await until(staging)


async def refused(replica: EngineReplica, release: str) -> str:
    """Waits until a release has failed. -> why"""

    async def now() -> bool:
        return bool((await replica.status())["detail"]["failed_release"] == release)

    await until(now)
    return str((await replica.status())["detail"]["error"])


def test_a_release_without_room_beside_the_old_one_is_refused_unless_draining_is_wanted() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.registry.channels["stable"] = "r2"
        assert "does not fit" in await refused(replica, "r2")
        await serves(replica, "r1")
        assert made.loop.retired == []

    _run(test, room=1)


def test_requests_that_would_wait_long_for_running_ones_to_end_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served_releases, "LONGEST_WAIT_S", 0.05)

    async def test(made: World, replica: EngineReplica) -> None:
        async with client_of(replica) as client:
            running = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await until(lambda: len(made.loop.seen) == 1)
            made.registry.channels["stable"] = "r2"
            await until_staging(replica, "r2")
            await asyncio.sleep(0.05)
            response = await client.post("/v1/completions", json=BODY)
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "loading"
            assert int(response.headers["retry-after"]) >= 1
            running.cancel()

    _run(test, DRAINING, manual=True, room=1)


def test_a_release_that_answers_without_numbers_is_not_served_and_not_tried_again() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.loop.no_numbers.add("c")
        made.registry.channels["stable"] = "r2"
        error = await refused(replica, "r2")
        assert error == "BadRelease: release r2, model c: its log-probabilities are not finite"
        await serves(replica, "r1")
        await until(lambda: made.loop.retired == ["r2"])
        made.loop.no_numbers.clear()
        await asyncio.sleep(0.1)  # five looks
        assert made.loop.staged == ["r1", "r2"]
        made.registry.releases["r3"] = source("r3", "a")
        made.registry.channels["stable"] = "r3"
        await serves(replica, "r3")

    _run(test)


def test_a_first_release_that_is_bad_leaves_no_engine_that_was_planned_for_it() -> None:
    async def run() -> None:
        made = world("a")
        made.no_numbers = {"a"}
        made.registry.releases["r2"] = source("r2", "b")
        async with replica_of(made) as replica:
            assert "not finite" in await refused(replica, "r1")
            assert (await replica.status())["healthy"]
            made.registry.channels["stable"] = "r2"
            await serves(replica, "r2")
            assert [loop.first.id for loop in made.loops] == ["r1", "r2"]

    asyncio.run(run())


@pytest.mark.parametrize("of_text", [False, True])
def test_a_tokenizer_with_more_tokens_than_its_model_is_refused(of_text: bool) -> None:
    fields: dict[str, Any] = {"vocab_size": 100, "eos_token_id": 2}
    config = {"text_config": fields} if of_text else fields

    async def test(made: World, replica: EngineReplica) -> None:
        small = FakeModel(config, {})
        made.registry.releases["r2"] = FakeSource("r2", {"a": small})
        made.registry.channels["stable"] = "r2"
        error = await refused(replica, "r2")
        assert "model a: its tokenizer has tokens up to " in error
        assert error.endswith("its vocabulary ends at 99")
        assert made.loop.staged == ["r1"], "it is known before anything is loaded"

    _run(test)


def test_what_is_bad_is_tried_again_only_if_that_may_help() -> None:
    never = Failure("r2", "bad", at=0.0, attempts=1, is_final=True)
    assert decide(_situation(failure=never, now=1e9)) is None
    assert decide(_situation(wanted="r3", failure=never)) == "r3"


def test_publishing_under_load_fails_no_request() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        seen: set[str] = set()
        done = asyncio.Event()

        async def ask() -> int:
            num = 0
            async with client_of(replica) as client:
                while not done.is_set():
                    response = await client.post("/v1/completions", json=BODY)
                    assert response.status_code == 200, response.text
                    seen.add(response.json()["system_fingerprint"])
                    num += 1
            return num

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for release in ("r2", "r1", "r2"):
            made.registry.channels["stable"] = release
            await serves(replica, release)
            await asyncio.sleep(0.1)
        done.set()
        assert sum(await asyncio.gather(*asking)) > 20
        assert seen == {"r1", "r2"}

    _run(test)


def test_reconfigure_returns_while_a_release_is_being_staged() -> None:
    async def run() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        served: list[str] = []

        async def take_up(release: str) -> None:
            begun.set()
            await go_on.wait()
            served.append(release)

        follower = Follower(
            lambda name: None,
            take_up,
            lambda: served[-1] if served else None,
            poll_s=0.01,
            clock=lambda: 0.0,
        )
        task = asyncio.create_task(follower.run())
        follower.aim(UserConfig(release="r1"))
        await begun.wait()
        follower.aim(UserConfig(release="r2"))
        go_on.set()
        await until(lambda: served == ["r1", "r2"])
        task.cancel()

    asyncio.run(run())


def test_a_first_release_that_fails_is_tried_again() -> None:
    async def run() -> None:
        now = 0.0
        served: list[str] = []
        tries = 0

        async def take_up(release: str) -> None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise EngineError("not yet")
            served.append(release)

        follower = Follower(
            lambda name: "r1",
            take_up,
            lambda: served[-1] if served else None,
            poll_s=0.01,
            clock=lambda: now,
        )
        follower.aim(UserConfig(channel="stable"))
        for moment in (0.0, 1.0, 6.0, 7.0, 30.0):
            now = moment
            await follower.look()
        assert (tries, served) == (3, ["r1"])

    asyncio.run(run())


OUTAGE = Outage("/registry/blob was altered", since=0.0, attempts=2, retry_at=7.5)


def test_a_first_release_is_served_without_a_model_that_cannot_be_loaded_until_it_can() -> None:
    async def run() -> None:
        made = world()
        made.unavailable["r1", "a"] = OUTAGE
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")

            async def asked(model: str) -> int:
                response = await client.post("/v1/completions", json={**BODY, "model": model})
                return response.status_code

            refusal = await client.post("/v1/completions", json=BODY)
            assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "8")
            assert refusal.json()["error"]["message"] == (
                "the model 'a' cannot be loaded at the moment"
            )
            assert await asked("b") == 200
            status = await replica.status()
            assert status["healthy"]
            assert list(status["detail"]["unavailable_models"]) == ["a"]

            made.unavailable.clear()
            made.no_numbers.add("a")
            assert await asked("a") == 500, "its release is verified before anybody is answered"
            made.no_numbers.clear()
            assert await asked("a") == 200
            assert [request.model for request in made.loop.seen] == ["b", "a"]
            made.no_numbers.add("a")
            assert await asked("a") == 200, "and not again"

    asyncio.run(run())


def test_a_first_release_of_which_no_model_can_be_loaded_is_refused() -> None:
    async def run() -> None:
        made = world("a", "b")
        made.unavailable |= {("r1", "a"): OUTAGE, ("r1", "b"): OUTAGE}
        async with replica_of(made) as replica:
            assert await refused(replica, "r1") == "Unavailable: /registry/blob was altered"

    asyncio.run(run())


def test_a_release_with_a_model_that_cannot_be_loaded_leaves_the_old_one() -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.unavailable["r2", "c"] = OUTAGE
        made.registry.channels["stable"] = "r2"
        assert await refused(replica, "r2") == "Unavailable: /registry/blob was altered"
        await serves(replica, "r1")
        await until(lambda: made.loop.retired == ["r2"])

    _run(test)


def test_a_model_that_cannot_be_loaded_is_refused_by_name_and_shown_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(made: World, replica: EngineReplica) -> None:
        made.unavailable["r1", "a"] = OUTAGE
        async with client_of(replica) as client:
            for stream in (False, True):
                response = await client.post("/v1/completions", json={**BODY, "stream": stream})
                assert response.status_code == 503
                error = response.json()["error"]
                assert error["code"] == "loading"
                assert error["message"] == "the model 'a' cannot be loaded at the moment"
                assert response.headers["retry-after"] == "8"
            assert not caplog.records, "an outage is told when it begins, not with each request"
            counted = 'request_errors_total{code="loading",side="stable",tenant="default"} 2.0'
            assert counted in of_one((await client.get("/metrics")).text)
            response = await client.post("/v1/completions", json={**BODY, "model": "b"})
            assert response.status_code == 200
        status = await replica.status()
        assert status["healthy"]
        found = status["detail"]["unavailable_models"]["a"]
        assert (found["error"], found["attempts"]) == ("/registry/blob was altered", 2)
        [facts] = await replica.admin()
        assert facts["residency"]["unavailable_models"].keys() == {"a"}

    _run(test)
