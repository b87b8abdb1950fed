"""A real Prometheus reads two engines: what it sums is what clients counted, and alerts come."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serve_app.config import ServeConfig
from serve_app.errors import EngineError
from serve_app.monitoring.alerts import ALERTS
from serve_app.monitoring.dashboards import DASHBOARDS
from serve_app.serving.metrics import metrics_port
from serve_app.serving.metrics.http_counts import HttpCounts
from serve_app.serving.metrics.metrics_pages import ingress_families
from serve_app.serving.replica.dependencies import OpenedRelease
from serve_app.serving.replica.replica import EngineReplica
from tests.monitoring.prometheus_server import MISSING, Prometheus, prometheus
from tests.serving.fakes import CONFIG, FakeRegistry, World, source, world
from tests.serving.running import client_of, replica_of, serves

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="there is no prometheus here (Debian: apt-get install it)"),
]
PACE = 0.006
"""Half an hour of patience is 11 s, and two minutes 0.7 s."""
SMALL = CONFIG.model_copy(update={"max_open_choices": 4})


@dataclass
class Gated(FakeRegistry):
    """Reading the release `r2` lasts until somebody lets it fail."""

    gate: threading.Event = field(default_factory=threading.Event)

    def open(self, release: str) -> OpenedRelease:
        if release == "r2":
            self.gate.wait()
            raise EngineError("a blob is damaged")
        return super().open(release)


@dataclass
class Counted:
    """What clients were told."""

    prompt: int = 0
    generated: int = 0
    choices: int = 0
    errors: int = 0


async def _ask(client: httpx.AsyncClient, num: int, counted: Counted) -> None:
    for number in range(num):
        body = {"model": "ab"[number % 2], "prompt": "the", "max_tokens": 3 + number % 7, "n": 2}
        answer = await client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        counted.prompt += told["usage"]["prompt_tokens"]
        counted.generated += told["usage"]["completion_tokens"]
        counted.choices += len(told["choices"])
        refused = await client.post("/v1/completions", json={**body, "model": "none"})
        assert refused.status_code == 404
        counted.errors += 1


@contextmanager
def _stepping(made: World) -> Iterator[threading.Event]:
    """A thread steps while the event is set."""
    steps, ends = threading.Event(), threading.Event()
    steps.set()

    def run() -> None:
        while not ends.wait(0.001):
            if steps.is_set() and made.loops:
                made.loop.step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield steps
    finally:
        ends.set()
        thread.join()


@asynccontextmanager
async def _served(made: World, config: ServeConfig) -> AsyncIterator[tuple[EngineReplica, int]]:
    """A replica, and the port of its metrics."""
    async with replica_of(made, config) as replica:
        await serves(replica, "r1")
        listener = await metrics_port.listen("127.0.0.1", 0, replica.view.families)
        try:
            yield replica, listener.port
        finally:
            await listener.aclose()


@asynccontextmanager
async def _ingress(counts: HttpCounts) -> AsyncIterator[int]:
    """The port of an ingress's metrics."""
    read = lambda: ingress_families(None, None, counts.values())  # noqa: E731
    listener = await metrics_port.listen("127.0.0.1", 0, read)
    try:
        yield listener.port
    finally:
        await listener.aclose()


async def _until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await asyncio.to_thread(holds):
                return
            await asyncio.sleep(0.2)


def _filled(expr: str, replica: str) -> str:
    """As Grafana fills in what is chosen."""
    chosen = {"$__rate_interval": "10s", "$model": ".*", "$tenant": ".*", "$replica": replica}
    for name, value in chosen.items():
        expr = expr.replace(name, value)
    return expr


async def _sums_are_what_clients_counted(server: Prometheus, counted: Counted) -> None:
    expected = {
        "prompt_tokens_total": counted.prompt,
        "generation_tokens_total": counted.generated,
        "request_success_total": counted.choices,
        "request_errors_total": counted.errors,
    }
    for name, number in expected.items():

        def holds(name: str = name, number: int = number) -> bool:
            found = server.series(f"sum(expertpool_{name})")
            return bool(found) and abs(float(found[0]["value"][1]) - number) <= 0.01 * number

        await _until(holds)


def _every_panel_shows_something(server: Prometheus, replica: str) -> None:
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            for query in panel.queries:
                expr = _filled(query.expr, replica)
                assert server.series(expr), f"{dashboard.title}, {panel.title}: {expr}"


async def _faults(
    server: Prometheus,
    first: World,
    second: World,
    replicas: tuple[EngineReplica, EngineReplica],
    http: HttpCounts,
) -> set[str]:
    """Each alert comes for its fault. The second engine does not step. -> those that came"""
    told: set[str] = set()

    async def fires(*names: str) -> None:
        wanted = {f"Expertpool{name}" for name in names}
        await _until(lambda: wanted <= server.firing())
        told.update(wanted)

    registry = second.registry
    assert isinstance(registry, Gated)
    first.registry.broken, first.loop.broken, first.loop.fail_requests = True, "lost", True
    registry.releases["r2"] = source("r2", "a", "b")
    registry.channels["stable"] = "r2"
    async with client_of(replicas[0]) as failing, client_of(replicas[1]) as waiting:
        body = {"model": "a", "prompt": "the", "max_tokens": 3}

        async def fail() -> None:
            while True:
                assert (await failing.post("/v1/completions", json=body)).status_code == 500
                http.count("/v1/completions", 503)
                await asyncio.sleep(0.02)

        held = asyncio.create_task(waiting.post("/v1/completions", json={**body, "n": 4}))
        failing_on = asyncio.create_task(fail())
        await fires("ChannelUnreadable", "CountsBroken", "ErrorRate", "QueueFull", "StagingStuck")
        await fires("ServerErrors")
        assert not {"ExpertpoolReplicaOutOfStep", "ExpertpoolNothingReady"} & server.firing()
        registry.gate.set()
        await fires("ReplicaOutOfStep")
        for replica in replicas:
            replica.view.has_stopped = True
        await fires("ReplicaNotReady", "NothingReady")
        for task in (failing_on, held):
            task.cancel()
        await asyncio.wait({failing_on, held})
    return told


def test_sums_panels_and_alerts_with_a_real_prometheus(tmp_path: Path) -> None:
    first, second = world(), world(manual=True)
    second.registry = Gated(second.registry.releases, second.registry.channels)
    counted, http = Counted(), HttpCounts("i1")

    async def run() -> None:
        async with AsyncExitStack() as stack:
            steps = stack.enter_context(_stepping(second))
            targets = []
            replicas = []
            for made, config in ((first, CONFIG), (second, SMALL)):
                replica, port = await stack.enter_async_context(_served(made, config))
                replicas.append(replica)
                targets.append(f"127.0.0.1:{port}")
            targets.append(f"127.0.0.1:{await stack.enter_async_context(_ingress(http))}")
            http.count("/v1/completions", 200)
            server = stack.enter_context(prometheus(tmp_path, targets, PACE))
            await _until(lambda: len(server.series("expertpool_ready")) == 2)
            for replica, num in zip(replicas, (40, 25), strict=True):
                async with client_of(replica) as client:
                    await _ask(client, num, counted)
            await _sums_are_what_clients_counted(server, counted)
            await asyncio.to_thread(_every_panel_shows_something, server, replicas[0].name)
            assert server.rules_with_errors() == []
            assert server.firing() == set()
            steps.clear()
            told = await _faults(server, first, second, (replicas[0], replicas[1]), http)
            assert told == {alert.name for alert in ALERTS}

    asyncio.run(run())
