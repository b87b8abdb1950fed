"""Backbones that are to be loaded while their registry is slow, fails, or is gone."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.chaos.faults.files import FAILED_LOADS, answers
from tests.chaos.ground import Ground

DELAY_S = 3.0
AWAY_S = 8.0


def slow_then_failing(ground: Ground) -> Mapping[str, Any]:
    """Resident models answer meanwhile; requests that need a load wait, and fail by name."""
    control = ground.family.control
    before = ground.endpoint.metric(FAILED_LOADS)
    try:
        control.set(delay_s=DELAY_S)
        ground.hurt()
        time.sleep(2 * DELAY_S)
        slow = len([one for one in ground.seen(ground.hurt_at) if one.said == ""])
        control.set(delay_s=DELAY_S, fails=True)
        ground.until(lambda: ground.endpoint.metric(FAILED_LOADS) > before, "a load fails")
        time.sleep(AWAY_S)
    finally:
        control.set()
        ground.hurt()
    return {
        "answered while it was slow": slow,
        "loads failed": ground.endpoint.metric(FAILED_LOADS) - before,
    }


def registry_gone(ground: Ground) -> Mapping[str, Any]:
    """What is resident answers; what is to be loaded is refused, and comes back by itself."""
    before = ground.endpoint.metric(FAILED_LOADS)
    with _away(ground):
        ground.hurt()
        ground.until(lambda: ground.endpoint.metric(FAILED_LOADS) > before, "a load fails")
        time.sleep(AWAY_S)
        resident = answers(ground, 1)
    ground.hurt()
    return {
        "loads failed": ground.endpoint.metric(FAILED_LOADS) - before,
        "resident models answer": resident,
    }


@contextmanager
def _away(ground: Ground) -> Iterator[None]:
    folder = ground.family.folder
    hidden = folder.with_name("away")
    folder.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(folder)
