"""A cluster in which nothing serves, until a channel appears."""

import time
from collections.abc import Mapping
from typing import Any

from tests.chaos.endpoint import wait_until
from tests.cluster.cluster import RUNNING_S, Cluster
from tests.cluster.site import Site
from tests.support.row import Short

HEALTHZ, READY = "/-/healthz", "/ready"
WATCHED_S = 15.0
"""How long it is watched with all its processes up and nothing to serve."""
PROBES_S = 30.0
"""By then a probe has seen that a release serves."""


def nothing_serves(site: Site) -> Mapping[str, Any]:
    """No channel: Serve and its proxies say that it is not ready. Then the channel comes."""
    cluster = site.fresh()
    cluster.deploy(site.manifests)
    wait_until(lambda: 0 not in _probed(cluster, READY), RUNNING_S, "the proxies answer")
    statuses, healths, readiness = set[str](), set[int](), set[int]()
    until = time.monotonic() + WATCHED_S
    while time.monotonic() < until:
        statuses.add(cluster.status())
        healths |= _probed(cluster, HEALTHZ)
        readiness |= _probed(cluster, READY)
        time.sleep(0.5)
    told = cluster.status_by_command()
    site.publish()
    running_s = cluster.until_running(1)
    probes_s = wait_until(
        lambda: _probed(cluster, HEALTHZ) | _probed(cluster, READY) == {200},
        PROBES_S,
        "the proxies of all workers are healthy and ready",
    )
    seen = {
        "status before": sorted(statuses),
        "/-/healthz before": sorted(healths),
        "/ready before": sorted(readiness),
        "s from the channel to RUNNING": running_s,
        "s from then until both are 200": probes_s,
    }
    if "RUNNING" in statuses or "status: RUNNING" in told:
        raise Short("Serve said RUNNING while nothing served", seen)
    if 200 in healths or readiness != {503}:
        raise Short("a proxy was ready while nothing served", seen)
    return seen


def _probed(cluster: Cluster, path: str) -> set[int]:
    return {cluster.probe(node, path) for node in cluster.workers}
