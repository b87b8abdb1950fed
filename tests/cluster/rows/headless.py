"""The head that dies, where a Redis remembers what it knew."""

import time
from collections.abc import Mapping
from typing import Any

from tests.chaos.endpoint import wait_until
from tests.chaos.ledger import counts, reasons
from tests.cluster.redis_server import PROGRAM, redis
from tests.cluster.site import Site
from tests.support.row import Short, Skipped

CLIENTS, REQUESTS = 4, 200
AWAY_S = 20.0
"""From the head's death until another starts, as a pod does."""
CHANGED_S = 180.0


def head_killed(site: Site) -> Mapping[str, Any]:
    """Requests go on; once the next head runs, changes are possible again."""
    if PROGRAM is None:
        raise Skipped("there is no redis-server here (Debian: apt-get install redis-server)")
    with redis(PROGRAM) as found:
        site.fresh(found)
        try:
            return _killed(site)
        finally:
            site.close()


def _killed(site: Site) -> Mapping[str, Any]:
    cluster = site.serving(1)
    assert cluster.head is not None
    with site.clients(cluster) as clients:
        clients.begin(CLIENTS)
        time.sleep(2)
        cluster.head.kill()
        killed = time.monotonic()
        wanted = clients.num_answered + CLIENTS + REQUESTS  # one of each had begun before
        while time.monotonic() < killed + AWAY_S or clients.num_answered < wanted:
            time.sleep(0.1)
        while_away = [each.outcome for each in clients.end() if each.outcome.begun > killed]
        clients.begin(1)  # the cores are the next head's: its agents must be there within 15 s
        begun = time.monotonic()
        cluster.start_head()
        started = time.monotonic()
        wait_until(lambda: cluster.status() == "RUNNING", CHANGED_S, "the next head knows it")
        known = time.monotonic()
        cluster.deploy(site.manifests.with_changes(engines=2))
        cluster.until_running(2, CHANGED_S)
        changed = time.monotonic()
        later = [each.outcome for each in clients.end()]
    outcomes = [*while_away, *later]
    seen = {
        "requests while there was no head": len(while_away),
        "right": counts(while_away)["right"],
        "requests until a second engine ran": len(later),
        "of these right": counts(later)["right"],
        "the next head was started after s": begun - killed,
        "it had started s later": started - begun,
        "Serve was RUNNING again s later": known - started,
        "a second engine ran s later": changed - known,
        **reasons(outcomes),
    }
    if counts(outcomes)["right"] != len(outcomes) or len(while_away) < REQUESTS:
        raise Short("requests were lost, or there were too few", seen)
    return seen
