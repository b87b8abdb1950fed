"""Replicas that are added and taken away under load."""

import time
from collections.abc import Mapping
from typing import Any

from tests.chaos.ledger import counts, reasons
from tests.cluster.site import Site
from tests.support.row import Short

CLIENTS = 8
EACH_WAY = 120
"""Requests that are answered, at least, before the next change."""


def up_and_down(site: Site) -> Mapping[str, Any]:
    """Engines 1, 2, 1, by `serve deploy` of a changed number."""
    cluster = site.serving(1)
    took: dict[str, Any] = {}
    with site.clients(cluster) as clients:
        clients.begin(CLIENTS)
        for engines in (2, 1):
            aim = clients.num_answered + EACH_WAY
            begun = time.monotonic()
            cluster.deploy(site.manifests.with_changes(engines=engines))
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
