"""Waits in an endpoint's queue, from what it tells Prometheus."""

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from serve_app.bench.load.queue_waits import ALL, between, parse, read


class Server:
    """Counts waits as an endpoint does."""

    def __init__(self, name: str) -> None:
        self.registry = CollectorRegistry()
        labels = ("model_name", "tenant")
        self.waits = Histogram(
            name, "words", labels, registry=self.registry, buckets=(0.1, 1.0, 10.0)
        )

    def waited(self, model: str, *seconds: float) -> None:
        for one in seconds:
            self.waits.labels(model, "default").observe(one)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


@pytest.mark.parametrize(
    "name", ["expertpool_request_queue_time_seconds", "vllm:request_queue_time_seconds"]
)
def test_only_what_was_waited_in_between_counts(name: str) -> None:
    server = Server(name)
    server.waited("a", 9.0, 9.0)
    before = parse(server.text())
    server.waited("a", 0.05, 0.05, 0.55, 0.55)
    server.waited("b", 5.5)
    found = between(before, parse(server.text()))
    assert found.keys() == {"a", "b", ALL}
    a, b, every = found["a"], found["b"], found[ALL]
    assert a is not None
    assert a["mean"] == pytest.approx(0.3)
    assert a["p50"] == pytest.approx(0.1)  # two of four lie below it
    assert a["p99"] == pytest.approx(0.1 + 0.9 * (0.99 * 4 - 2) / 2)
    assert b is not None
    assert 1.0 < b["p50"] < 10.0
    assert every is not None
    assert every["mean"] == pytest.approx(6.7 / 5)


def test_waits_beyond_the_last_bucket_are_told_as_its_end() -> None:
    server = Server("expertpool_request_queue_time_seconds")
    server.waited("a", 99.0)
    (found,) = {str(one) for one in between(None, parse(server.text())).values()}
    assert "'p50': 10.0" in found


def test_nothing_is_said_of_what_nobody_counts() -> None:
    assert parse("# HELP other words\n# TYPE other counter\nother_total 3\n") is None
    assert between(None, None) == {}
    server = Server("expertpool_request_queue_time_seconds")
    server.waited("a", 1.0)
    same = parse(server.text())
    assert between(same, same) == {"a": None, ALL: None}
    assert read("http://127.0.0.1:9") is None
