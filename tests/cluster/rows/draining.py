"""A node that is told to end while streams run: what the kubelet does to a pod."""

import time
from collections.abc import Mapping
from typing import Any

from serve_app.serving.graces import graces_of
from tests.chaos.ledger import Kind, counts, reasons
from tests.cluster.cluster import Cluster
from tests.cluster.site import DRAIN_S, Site
from tests.support.row import Short

STREAMS, CLIENTS = 24, 4
LONG_S = DRAIN_S / 2
"""What a stream takes, about: the machine may become slower meanwhile."""
LEAVES_S = 1.0
"""From SIGTERM until the load balancer sends nothing new to the node."""
ENDS_S = 30.0
"""Beyond Ray's own grace, as `terminationGracePeriodSeconds` is."""


def node_told_to_end(site: Site) -> Mapping[str, Any]:
    """Two engines on two nodes, SIGTERM to one of them, with streams through both."""
    cluster = site.serving(2)
    seen = _told_to_end(site, cluster)
    cluster.add_workers(1)
    return seen


def node_with_room_elsewhere(site: Site) -> Mapping[str, Any]:
    """The same with a third node, which can take the replicas of the one that ends."""
    cluster = site.serving(2)
    seen = _told_to_end(site, cluster, room=1)
    took = cluster.until_running(2)
    return {**seen, "s from then until two engines run": took}


def _told_to_end(site: Site, cluster: Cluster, *, room: int = 0) -> Mapping[str, Any]:
    """room: nodes that are added, which the clients do not know."""
    address = next(iter(cluster.pids("Engine")))
    [node] = [each for each in cluster.workers if each.address == address]
    with site.clients(cluster) as clients:
        cluster.add_workers(room)
        streams = clients.streams_of(STREAMS, LONG_S)
        clients.begin(CLIENTS)
        time.sleep(2)
        num_open = sum(not each.done() for each in streams)
        node.told_to_end()
        begun = time.monotonic()
        time.sleep(LEAVES_S)
        clients.leave(node.proxy)
        outcomes = [each.result().outcome for each in streams]
        longest = max(each.ended - each.begun for each in outcomes)
        node.ended(graces_of(DRAIN_S).node_s + ENDS_S)
        ended_s = time.monotonic() - begun
        others = [each.outcome for each in clients.end()]
    cluster.forget(node)
    tally, beside = counts(outcomes), counts(others)
    seen = {
        "streams open at SIGTERM": num_open,
        "whole": tally["right"],
        "the longest stream took s": longest,
        "requests meanwhile": len(others),
        "right": beside["right"],
        "the node ended after s": ended_s,
        **reasons([*outcomes, *others]),
    }
    wrong = [each for each in (*outcomes, *others) if each.kind is not Kind.RIGHT]
    if wrong:
        raise Short(f"{len(wrong)} streams or requests were not right", seen)
    if num_open < STREAMS:
        raise Short("streams ended before the node was told to end", seen)
    return seen
