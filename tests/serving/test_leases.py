"""Limits over three ingresses of a real endpoint, and a budget for a month over a restart."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from consolidation.run.ray_start import patient_start
from serve_app.bench.http.processor_time import running
from serve_app.config import ServeConfig, UserConfig
from serve_app.engine.config import EngineConfig
from serve_app.serving.run import endpoint, free_port
from serve_app.tenants.key_changes import Wanted, with_new_key
from serve_app.tenants.keys_file import KeysFile, Limits
from serve_app.tenants.keys_store import KeysStore
from tests.serving.family import FAMILY, TinyFamily

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PER_MINUTE, SECONDS, BUDGET = 60, 20.0, 40


class Served:
    """An endpoint with two tenants, which can be started again."""

    def __init__(self, place: Path) -> None:
        family = TinyFamily(place)
        family.make_models(["a"])
        family.publish(["a"], channel="stable")
        self._config = ServeConfig(
            registry=family.url,
            family=FAMILY,
            engine=EngineConfig(device="cpu", dtype="float32", kv_tokens=4096),
            keys=str(place / "keys.yaml"),
            usage=str(place / "usage"),
        )
        self.keys = {
            "limited": self._new_key("limited", requests_per_minute=PER_MINUTE),
            "paying": self._new_key("paying", monthly_tokens=BUDGET),
        }
        self.address = ""

    @contextmanager
    def started(self) -> Iterator[None]:
        user, port = UserConfig(channel="stable"), free_port()
        with endpoint(
            self._config, user, port, ingresses=3, starting=patient_start
        ) as self.address:
            until(lambda: httpx.get(f"{self.address}/ready").status_code == 200, 60)
            yield

    def ask(self, tenant: str) -> httpx.Response:
        """On a connection of its own, so by any of the ingresses."""
        body = {"model": "a", "prompt": "hello", "max_tokens": 1, "temperature": 0}
        headers = {"x-api-key": self.keys[tenant]}
        return httpx.post(f"{self.address}/v1/completions", json=body, headers=headers, timeout=30)

    def _new_key(self, tenant: str, **limits: int) -> str:
        made: list[str] = []

        def add(file: KeysFile) -> KeysFile:
            changed, key = with_new_key(file, Wanted(tenant, limits=Limits(**limits)))
            made.append(key)
            return changed

        assert self._config is not None
        KeysStore(str(self._config.keys)).change(add)
        return made[0]


def until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.1)


def actors() -> list[int]:
    return [process.pid for process in running() if process.command.startswith("ray::LeaseActor")]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("served"))


def test_a_limit_holds_to_a_tenth_while_the_actor_dies_and_a_budget_outlives_all(
    served: Served,
) -> None:
    with served.started():
        assert sum(spend(served)) > BUDGET / 2
        flood(served)
    with served.started():
        assert spend(served) == []  # all of it was spent before the restart


def flood(served: Served) -> None:
    """Asks for four times what may go, and kills the actor in the middle."""
    began, statuses = time.monotonic(), Counter[int]()
    (killed,) = actors()

    def ask_on(_: int) -> None:
        while time.monotonic() - began < SECONDS:
            answer = served.ask("limited")
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
                assert int(answer.headers["x-ratelimit-remaining-requests"]) <= 3
            time.sleep(0.1)

    with ThreadPoolExecutor(4) as pool:
        floods = pool.map(ask_on, range(4))
        time.sleep(SECONDS / 2)
        os.kill(killed, signal.SIGKILL)
        list(floods)
    until(lambda: actors() not in ([], [killed]), 10)
    assert set(statuses) == {200, 429}
    expected = PER_MINUTE * (1 + SECONDS / 60)
    assert statuses[200] == pytest.approx(expected, rel=0.1)


def spend(served: Served) -> list[int]:
    """The tokens of the answers that the budget allowed, until it is used up for this month."""
    spent = []
    while True:
        answer = served.ask("paying")
        if answer.status_code == 200:
            spent.append(answer.json()["usage"]["total_tokens"])
            continue
        wait_s = int(answer.headers["retry-after"])
        if wait_s > 60:
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "insufficient_quota"
            return spent
        time.sleep(wait_s)  # another ingress holds some of the rest, or the actor is starting
