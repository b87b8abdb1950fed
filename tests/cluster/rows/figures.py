"""What two replicas count, against what clients were told."""

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.endpoint import wait_until
from tests.chaos.ledger import counts
from tests.cluster.cluster import Cluster
from tests.cluster.pages import ENGINE_PORT, metric, ray_series
from tests.cluster.site import Site
from tests.monitoring.prometheus_server import Prometheus, prometheus
from tests.support.row import Short

STREAMS, LENGTHS = 40, (20, 60, 140)
NAME = "generation_tokens_total"
ANSWERS = "http_requests_total"
WITHIN = 0.01
RAY_S = 25.0
"""By then Ray's agents have heard of it: they are told every 10 s."""
SCRAPED_S = 60.0
"""By then Prometheus has read both engines."""


def metrics_of_two(site: Site) -> Mapping[str, Any]:
    """Sums over the engines' own ports, and by a real Prometheus where there is one."""
    cluster = site.serving(2)
    time.sleep(RAY_S)  # what was counted before is told
    if shutil.which("prometheus") is None:
        return _judged(_asked(site, cluster, None), "there is no prometheus: not asked")
    targets = [f"{node.address}:{ENGINE_PORT}" for node in cluster.workers]
    with tempfile.TemporaryDirectory() as place, prometheus(Path(place), targets, 1.0) as found:
        return _judged(_asked(site, cluster, found), "")


def _asked(site: Site, cluster: Cluster, found: Prometheus | None) -> dict[str, Any]:
    answers_before = _answers(cluster)
    by_engine = {node.address: metric(node.address, NAME) for node in cluster.workers}
    before, ray_before = _by_prometheus(found), ray_series(cluster.ray_metrics(), NAME)
    with site.clients(cluster) as clients:
        answered = [
            each.result() for length in LENGTHS for each in clients.streams(STREAMS, length)
        ]
    truth = sum(each.tokens for each in answered)
    time.sleep(RAY_S)
    counted = [metric(address, NAME) - count for address, count in by_engine.items()]
    by_ray = [
        value - ray_before.get(labels, 0.0)  # those of an engine that has ended go
        for labels, value in ray_series(cluster.ray_metrics(), NAME).items()
    ]
    seen = {
        "streams": len(answered),
        "right": counts([each.outcome for each in answered])["right"],
        "tokens that clients were told of": truth,
        "counted by each engine": counted,
        "counted over truth": sum(counted) / truth,
        "by Ray over truth": sum(by_ray) / truth,
        "answers by Ray over truth": (_answers(cluster) - answers_before) / len(answered),
    }
    if found is not None:
        seen["by Prometheus over truth"] = (_by_prometheus(found) - before) / truth
    return seen


def _answers(cluster: Cluster) -> float:
    """Completions that ingresses answered with 2xx, by Ray's own metrics."""
    found = ray_series(cluster.ray_metrics(), ANSWERS)
    wanted = ('route="/v1/completions"', 'status="2xx"')
    return sum(value for labels, value in found.items() if all(one in labels for one in wanted))


def _by_prometheus(found: Prometheus | None) -> float:
    """As of now, once both engines were read after this call."""
    if found is None:
        return 0.0
    now, up = time.time(), "timestamp(up) and up == 1"

    def is_read() -> bool:
        return sum(float(one["value"][1]) > now for one in found.series(up)) == 2

    wait_until(is_read, SCRAPED_S, "Prometheus has read both engines")
    return found.value(f"sum(expertpool_{NAME}) or vector(0)")


def _judged(seen: dict[str, Any], notice: str) -> Mapping[str, Any]:
    ratios = [value for name, value in seen.items() if name.endswith("over truth")]
    if notice:
        seen["notice"] = notice
    if any(abs(ratio - 1) > WITHIN for ratio in ratios) or seen["right"] != seen["streams"]:
        raise Short("what was counted is not what clients were told", seen)
    if min(seen["counted by each engine"]) == 0:
        raise Short("one engine had nothing to count", seen)
    return seen
