"""What a fault works on: the endpoint, the load, the family, and when the harm was done."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.endpoint import Endpoint, Watched, wait_until
from tests.chaos.family import Family
from tests.chaos.ledger import Kind, Outcome
from tests.chaos.load import Load

SETTLE_S = 30.0


@dataclass(kw_only=True)
class Scene:
    """An endpoint that somebody else has started, and a load on it.

    hurt_at: when the fault was done, or undone if it does not heal by itself; health is timed from
    there.
    """

    endpoint: Watched
    load: Load
    hurt_at: float = field(default_factory=time.monotonic)

    def hurt(self) -> None:
        """Now is that moment. The last call counts."""
        self.hurt_at = time.monotonic()

    def kill(self, part: str) -> int:
        """SIGKILL to one process of the endpoint, by its id. -> that id"""
        pid = self.endpoint.pids(part)[0]
        os.kill(pid, signal.SIGKILL)
        self.hurt()
        return pid

    def until(self, holds: Callable[[], bool], what: str, seconds: float = SETTLE_S) -> float:
        return wait_until(holds, seconds, what)

    def healthy(self) -> bool:
        """Ready, and every model gives a right answer. Raises: AssertionError for a wrong one."""
        if not self.endpoint.is_ready():
            return False
        outcomes = self.load.probe()
        wrong = [one for one in outcomes if one.kind is Kind.WRONG]
        assert not wrong, f"a wrong answer: {wrong[0].said}"
        return all(one.kind is Kind.RIGHT for one in outcomes)

    def seen(self, since: float) -> list[Outcome]:
        return self.load.ledger.since(since)


@dataclass(kw_only=True)
class Ground(Scene):
    """A family of its own, and an endpoint that may be ended.   out: an existing folder."""

    endpoint: Endpoint
    family: Family
    out: Path

    def serve(self, release: str, seconds: float = SETTLE_S) -> float:
        """Moves the channel, and waits until new requests get that release. -> seconds"""
        self.family.move(release)
        return self.until(lambda: self.endpoint.serving() == release, f"{release} serves", seconds)
