"""A change of `args`, which restarts both deployments in place."""

import time
from collections.abc import Mapping
from typing import Any

from tests.chaos.endpoint import wait_until
from tests.chaos.ledger import Kind, counts, reasons
from tests.cluster.cluster import RUNNING_S
from tests.cluster.site import Site
from tests.support.row import Short

CLIENTS = 8


def args_changed(site: Site) -> Mapping[str, Any]:
    """One engine, as on one GPU: the old one ends before the new one starts."""
    cluster = site.serving(1)
    with site.clients(cluster) as clients:
        clients.begin(CLIENTS)
        time.sleep(5)
        before = cluster.pids("Engine")
        begun = time.monotonic()
        cluster.deploy(site.manifests.with_changes(engines=1, args={"kv_tokens": 199_000}))
        wait_until(
            lambda: (
                set(cluster.pids("Engine").values()).isdisjoint(before.values())
                and cluster.status() == "RUNNING"
            ),
            RUNNING_S,
            "another engine runs",
        )
        took_s = time.monotonic() - begun
        time.sleep(3)
        outcomes = [each.outcome for each in clients.end()]
    failed = [each for each in outcomes if each.kind is not Kind.RIGHT]
    ended = [each.ended for each in failed]
    seen = {
        "requests": len(outcomes),
        "failed": len(failed),
        "from the first failure to the last s": max(ended) - min(ended) if ended else 0.0,
        "from the change to RUNNING s": took_s,
        **reasons(outcomes),
    }
    tally = counts(outcomes)
    if tally["right"] + tally["refused"] != len(outcomes):
        raise Short("some were cut, or were not told", seen)
    return seen
