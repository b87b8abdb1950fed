"""Processes that are killed, or stopped and continued. Each by its id."""

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from serve_app.bench.http.processor_time import ENGINE, INGRESS, TEXT
from tests.chaos.endpoint import is_alive
from tests.chaos.ground import Ground, Scene

CONTROLLER = "Serve's controller"
STOPPED_S = 8.0
SPARE_S = 20.0
"""By then an endpoint has the spare process that it keeps for the next engine."""


def nothing(ground: Scene) -> Mapping[str, Any]:
    """The load alone: what the other rows are to be compared with."""
    time.sleep(5)
    outcomes = ground.seen(ground.hurt_at)
    ground.hurt()
    return {"requests a second": len(outcomes) / 5}


def engine_killed(ground: Scene) -> Mapping[str, Any]:
    time.sleep(SPARE_S)
    return _killed(ground, ENGINE)


def ingress_killed(ground: Scene) -> Mapping[str, Any]:
    return _killed(ground, INGRESS)


def text_killed(ground: Scene) -> Mapping[str, Any]:
    return _killed(ground, TEXT)


def controller_killed(ground: Scene) -> Mapping[str, Any]:
    return _killed(ground, CONTROLLER)


def engine_stopped(ground: Scene) -> Mapping[str, Any]:
    """SIGSTOP, and SIGCONT later: requests wait, and are answered."""
    [pid] = ground.endpoint.pids(ENGINE)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(STOPPED_S)
    finally:
        os.kill(pid, signal.SIGCONT)
        ground.hurt()
    return {"stopped s": STOPPED_S}


def told_to_end(ground: Ground) -> Mapping[str, Any]:
    """SIGTERM with streams running: none is lost in silence, and no process stays."""
    processes = ground.endpoint.processes()
    begun = time.monotonic()
    code = ground.endpoint.told_to_end()
    seconds = time.monotonic() - begun
    ground.until(lambda: not any(map(is_alive, processes)), "no process is left", 10)
    return {"exit code": code, "ended after s": seconds}


def _killed(ground: Scene, part: str) -> Mapping[str, Any]:
    """One process of this part, and another takes its place."""
    before = len(ground.endpoint.pids(part))
    pid = ground.kill(part)
    ground.until(
        lambda: len(set(ground.endpoint.pids(part)) - {pid}) == before, f"another {part}", 60
    )
    return {"another after s": time.monotonic() - ground.hurt_at}
