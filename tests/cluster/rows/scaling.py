"""Replicas that are added and taken away under load."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.ledger import counts, reasons
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import Manifests
from tests.cluster.site import Site
from tests.support.row import Short
from tests.support.s3_server import s3_server

CLIENTS = 8
EACH_WAY = 120
"""Requests that are answered, at least, before the next change."""


def up_and_down(site: Site) -> Mapping[str, Any]:
    """Engines 1, 2, 1, by `serve deploy` of a changed number."""
    return _up_and_down(site, site.serving(1), site.manifests)


def up_and_down_from_a_bucket(site: Site) -> Mapping[str, Any]:
    """The same where the registry is in a bucket, whose server is slow: it has one thread."""
    site.publish()
    with (
        tempfile.TemporaryDirectory() as home,
        pytest.MonkeyPatch.context() as patch,
        s3_server(Path(home), patch) as s3,
    ):
        s3.put(Path(site.family.url), "acme/registry")
        manifests = site.manifests.from_registry("s3://acme/registry")
        try:
            cluster = site.fresh(manifests=manifests)
            cluster.deploy(manifests.with_changes(engines=1))
            cluster.until_running(1)
            cluster.until_reached()
            return _up_and_down(site, cluster, manifests)
        finally:
            site.close()


def multi_gpu(site: Site) -> Mapping[str, Any]:
    """The overlay for several GPUs, as it is rendered: two engines, scaled by its own policy."""
    site.publish()
    manifests = site.of_overlay("multi-gpu")
    try:
        cluster = site.fresh(manifests=manifests)
        cluster.deploy(manifests)
        cluster.until_running(2)
        cluster.until_reached()
        with site.clients(cluster) as clients:
            clients.begin(CLIENTS)
            while clients.num_answered < EACH_WAY:
                time.sleep(0.1)
            outcomes = [each.outcome for each in clients.end()]
    finally:
        site.close()
    seen = {"requests": len(outcomes), "right": counts(outcomes)["right"], **reasons(outcomes)}
    if seen["right"] != len(outcomes):
        raise Short("some were not right", seen)
    return seen


def _up_and_down(site: Site, cluster: Cluster, manifests: Manifests) -> Mapping[str, Any]:
    took: dict[str, Any] = {}
    with site.clients(cluster) as clients:
        clients.begin(CLIENTS)
        for engines in (2, 1):
            aim = clients.num_answered + EACH_WAY
            begun = time.monotonic()
            cluster.deploy(manifests.with_changes(engines=engines))
            cluster.until_running(engines)
            took[f"s until {engines} engines run alone"] = time.monotonic() - begun
            while clients.num_answered < aim:
                time.sleep(0.1)
        outcomes = [each.outcome for each in clients.end()]
    tally = counts(outcomes)
    seen = {"requests": len(outcomes), "right": tally["right"], **took, **reasons(outcomes)}
    if tally["right"] != len(outcomes):
        raise Short(f"{len(outcomes) - tally['right']} of {len(outcomes)} were not right", seen)
    return seen
