"""Single processes that are killed: an ingress, one engine of two, the only engine."""

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from tests.chaos.endpoint import wait_until
from tests.chaos.ledger import Kind, Outcome, counts, reasons
from tests.cluster.cluster import RUNNING_S
from tests.cluster.pages import metric
from tests.cluster.site import Site
from tests.support.row import Short

STREAMS, LONG_S = 16, 10.0
CLIENTS = 8
TOLD_S = 2.0
"""By then whoever asks an endpoint without an engine is told so."""


def ingress_killed(site: Site) -> Mapping[str, Any]:
    """Streams through it end; those through the other do not."""
    cluster = site.serving(2)
    node = cluster.workers[0]
    with site.clients(cluster) as clients:
        streams = clients.streams_of(STREAMS, LONG_S)
        time.sleep(2)
        pid = cluster.pids("Ingress")[node.address]
        clients.begin(2)
        os.kill(pid, signal.SIGKILL)
        back_s = wait_until(
            lambda: cluster.pids("Ingress").get(node.address, pid) != pid,
            RUNNING_S,
            "another ingress",
        )
        answered = [each.result() for each in streams]
        after = [each.outcome for each in clients.end()]
    through = [each.outcome for each in answered if each.address == node.proxy]
    others = [each.outcome for each in answered if each.address != node.proxy]
    seen = {
        "streams through it": len(through),
        "of these ended": len(through) - counts(through)["right"],
        "streams through the other": len(others),
        "of these whole": counts(others)["right"],
        "requests meanwhile": len(after),
        "right": counts(after)["right"],
        "another ingress after s": back_s,
        **reasons([*through, *others, *after]),
    }
    if any(each.kind is not Kind.RIGHT for each in (*others, *after)):
        raise Short("others than those through it ended", seen)
    return seen


def engine_killed(site: Site) -> Mapping[str, Any]:
    """One of two: the streams that it ran end with an error event, and no others."""
    cluster = site.serving(2)
    node = cluster.workers[0]
    with site.clients(cluster) as clients:
        streams = clients.streams_of(STREAMS, LONG_S)
        time.sleep(2)
        pid = cluster.pids("Engine")[node.address]
        ran = round(metric(node.address, "num_requests_running"))
        os.kill(pid, signal.SIGKILL)
        clients.begin(2)
        outcomes = [each.result().outcome for each in streams]
        back_s = cluster.until_running(2)
        others = [each.outcome for each in clients.end()]
    tally = counts(outcomes)
    seen = {
        "streams that it ran": ran,
        "ended with an error event": tally["ended"],
        "whole": tally["right"],
        "requests meanwhile": len(others),
        "right": counts(others)["right"],
        "two engines again after s": back_s,
        **reasons([*outcomes, *others]),
    }
    if tally["ended"] != ran or tally["right"] != STREAMS - ran:
        raise Short("others than those that it ran ended, or without an error event", seen)
    return seen


def only_engine_killed(site: Site) -> Mapping[str, Any]:
    """Whoever asks is told within two seconds that there is no engine, and when to come back."""
    cluster = site.serving(1)
    with site.clients(cluster) as clients:
        clients.begin(CLIENTS)
        time.sleep(2)
        [pid] = cluster.pids("Engine").values()
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(
            lambda: (
                cluster.pids("Engine").get(cluster.workers[0].address, pid) != pid
                or cluster.pids("Engine").get(cluster.workers[1].address, pid) != pid
            ),
            RUNNING_S,
            "another engine",
        )
        cluster.until_running(1)
        back_s = time.monotonic() - killed
        outcomes = [each.outcome for each in clients.end()]
    told = [each for each in outcomes if each.kind is Kind.REFUSED]
    first_s = min((each.ended for each in told), default=killed + back_s) - killed
    slowest_s = max((each.ended - each.begun for each in told), default=0.0)
    seen = {
        "the first 503 after s": first_s,
        "refused": len(told),
        "the slowest refusal took s": slowest_s,
        "the engine was back after s": back_s,
        **reasons(outcomes),
    }
    if not told or max(first_s, slowest_s) > TOLD_S:
        raise Short(f"told later than after {TOLD_S:g} s", seen)
    bad = [each for each in outcomes if not _is_excused(each, killed)]
    if bad:
        raise Short(f"{len(bad)} were neither right nor refused with 503", seen)
    return seen


def _is_excused(outcome: Outcome, killed: float) -> bool:
    """Whole, refused with 503, or a stream of the dead engine, told by an error event."""
    if outcome.kind is Kind.REFUSED:
        return outcome.said == "503 engine_unavailable"
    return outcome.kind is Kind.RIGHT or (outcome.kind is Kind.ENDED and outcome.begun < killed)
