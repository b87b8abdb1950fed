"""The port on which Prometheus reads one replica, and what goes to Ray instead."""

import asyncio
import logging
import socket

import httpx
import pytest

from serve_app.config import ServeConfig
from serve_app.serving.app import config_of
from serve_app.serving.metrics import metrics_port, ray_sums
from serve_app.serving.metrics.counting import Figure
from serve_app.serving.metrics.metrics_pages import ingress_families, page
from serve_app.serving.metrics.ray_sums import RaySums
from tests.serving.fakes import world
from tests.serving.running import replica_of, serves


def test_a_port_shows_the_metrics_of_its_replica_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with replica_of(world()) as replica:
            await serves(replica, "r1")
            with caplog.at_level(logging.INFO):
                listener = await metrics_port.listen("127.0.0.1", 0, replica.view.families)
            address = f"http://127.0.0.1:{listener.port}"
            assert f"{address}/metrics" in caplog.text
            async with httpx.AsyncClient(base_url=address) as http:
                text = (await http.get("/metrics")).text
                assert f'expertpool_ready{{replica="{replica.name}"}} 1.0\n' in text
                for path in ("/", "/health", "/v1/models"):
                    assert (await http.get(path)).status_code == 404
                assert (await http.post("/metrics")).status_code == 404
            await listener.aclose()

    asyncio.run(run())


def test_a_port_that_is_taken_is_named_once_and_used_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics_port, "_AGAIN_S", 0.01)

    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            listening = asyncio.create_task(metrics_port.listen("127.0.0.1", port, list))
            await asyncio.sleep(0.1)
            assert not listening.done()
        async with asyncio.timeout(10):
            listener = await listening
        assert listener.port == port
        await listener.aclose()
        [said] = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert f"port {port} of 127.0.0.1" in said.getMessage()

    asyncio.run(run())


class _Kept:
    """What Ray would be given."""

    def __init__(self, name: str, text: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, set(tag_keys)
        self.values: list[tuple[float, str]] = []

    def _take(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == self.keys
        self.values.append((value, tags.get("model_name", "")))


class _Counter(_Kept):
    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        self._take(value, tags)


class _Gauge(_Kept):
    def set(self, value: float, tags: dict[str, str]) -> None:
        self._take(value, tags)


def test_ray_gets_what_came_since_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_sums, "Counter", _Counter)
    monkeypatch.setattr(ray_sums, "Gauge", _Gauge)
    sums = RaySums("r")

    def figures(a: float, b: float, ready: float) -> list[Figure]:
        tokens = [
            Figure("t_total", "", {"model_name": m}, v, True) for m, v in (("a", a), ("b", b))
        ]
        return [*tokens, Figure("ready", "", {}, ready, False)]

    for one in (figures(3, 0, 0), figures(5, 2, 1), figures(5, 2, 1), figures(6, 1, 1)):
        sums.carry(one)  # b's series begins anew in the last
    tokens, ready = sums._made["t_total"], sums._made["ready"]
    assert isinstance(tokens, _Counter)
    assert isinstance(ready, _Gauge)
    assert tokens.values == [(3, "a"), (2, "a"), (2, "b"), (1, "a"), (1, "b")]
    assert [value for value, _ in ready.values] == [0, 1, 1, 1]
    assert tokens.keys == {"model_name", "replica"}


def test_metrics_have_a_port_in_a_cluster_and_none_on_one_machine() -> None:
    assert (config_of({}).metrics_port, config_of({}).ray_metrics) == (9464, True)
    assert config_of({"metrics_port": None}).metrics_port is None
    assert (ServeConfig().metrics_port, ServeConfig().ray_metrics) == (None, False)


def test_an_ingress_shows_its_own_metrics_if_it_has_them() -> None:
    assert "expertpool_keys_broken 1.0\n" in page(ingress_families(True, None, {}))
    text = page(ingress_families(False, 3, {}))
    assert "expertpool_keys_broken 0.0\n" in text
    assert "expertpool_usage_records_lost_total 3.0\n" in text
    assert page(ingress_families(None, None, {})) == ""
