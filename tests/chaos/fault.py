"""What a fault is, and how one is run and judged. Knows none by name."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from tests.chaos.ground import Scene
from tests.chaos.ledger import NEVER, TOUCHED, Kind, counts, reasons

Where = TypeVar("Where", bound=Scene)
HEALTHY_S = 90.0
"""By then an endpoint answers again, or has not healed."""
BEFORE_S, AFTER_S = 1.5, 2.0
"""How long the load runs before the fault, and after all is well again."""


class Setting(StrEnum):
    """Which endpoint a fault needs."""

    ROOMY = "roomy"
    """A place for every backbone."""
    HELD = "held"
    """Two places for four backbones, and copies of all on the host."""
    TIGHT = "tight"
    """Two places for four backbones, and one copy on the host: most loads read the registry."""
    REMOTE = "remote"
    """The same, over a storage that can be slow or fail."""


@dataclass(frozen=True, slots=True)
class Fault(Generic[Where]):
    """run: does it, and undoes what would not heal by itself. It returns figures, or raises.

    may_cut: connections may break.   is_quiet: without load, which would disturb what is counted.
    ends: the endpoint is to be started anew after it.
    """

    name: str
    run: Callable[[Where], Mapping[str, Any]]
    setting: Setting = Setting.ROOMY
    may_cut: bool = False
    is_quiet: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """healthy_s: from the harm until every model answers; None if it did not come to that."""

    name: str
    passed: bool
    seconds: float
    healthy_s: float | None
    requests: Mapping[str, int]
    reasons: Mapping[str, int]
    found: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def touched(self) -> int:
        return sum(self.requests[kind] for kind in TOUCHED)


def run_fault(fault: Fault[Where], ground: Where) -> Row:
    """One fault under load, and whether it was held out."""
    if not fault.is_quiet:
        ground.load.begin()
        time.sleep(BEFORE_S)
    begun = time.monotonic()
    ground.hurt()
    found: Mapping[str, Any] = {}
    why, healthy_s = "", None
    try:
        found = fault.run(ground)
        if not fault.ends:
            healthy_s = _until_healthy(ground)
            time.sleep(0 if fault.is_quiet else AFTER_S)
    except Exception as error:  # noqa: BLE001 - the other faults are to be run all the same
        where = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__} at {where.filename}:{where.lineno}: {error}"
    ground.load.end()
    outcomes = ground.seen(begun)
    tally = counts(outcomes)
    why = why or _breach(fault, tally)
    seconds = time.monotonic() - begun
    return Row(fault.name, not why, seconds, healthy_s, tally, reasons(outcomes), found, why)


def _until_healthy(ground: Scene) -> float:
    ground.until(ground.healthy, "every model answers", HEALTHY_S)
    return time.monotonic() - ground.hurt_at


def _breach(fault: Fault[Where], tally: Mapping[str, int]) -> str:
    banned = (*NEVER, *(() if fault.may_cut else (Kind.CUT,)))
    return ", ".join(f"{tally[kind]} {kind}" for kind in banned if tally[kind])
