"""The actor that all replicas of an application share, and the way to it. Counts nothing itself.

The replica that comes first starts it. It dies with that replica, and then another starts one;
Ray restarts it when its own process dies. What it knew comes back with what replicas say.
"""

import asyncio
import time
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from consolidation.release.storage import open_storage
from serve_app.serving.routing.turn import Turn
from serve_app.tenants.limits.lease import Asks, Leases, LessorAway
from serve_app.tenants.limits.local_lessor import LocalLessor
from serve_app.tenants.usage_sums import spent_in

_NAME = "expertpool-leases-{}"
_ANSWER_S = 1.0
"""After so long without an answer, the actor is away."""


class LeaseActor(LocalLessor):
    """The class that Ray constructs.   usage: the address of usage records, if there are any."""

    def __init__(self, usage: str | None) -> None:
        super().__init__(None if usage is None else partial(_spent_in, usage))
        self._turn = Turn(time.monotonic)

    async def take_turn(self, replica: str) -> bool:
        """Whether it is this replica's turn to stage: see `Turn`."""
        return self._turn.take(replica)

    async def end_turn(self, replica: str) -> None:
        """Others may stage now."""
        self._turn.end(replica)


def reach_actor(application: str, usage: str | None) -> Any:
    """A handle to the application's actor, which is started if there is none. Blocks."""
    made: Any = ray.remote(LeaseActor)
    name = _NAME.format(application)
    settings = {"name": name, "get_if_exists": True, "num_cpus": 0, "max_restarts": -1}
    return made.options(**settings).remote(usage)


class ActorLessor:
    """`Lessor` by the actor of an application, which it starts at once if there is none.

    reads_month: have it find out what was spent in this month, before somebody asks.
    """

    def __init__(self, application: str, usage: str | None, *, reads_month: bool) -> None:
        self._application = application
        self._usage = usage
        self._actor: Any = None
        actor = self._reach()
        if reads_month:
            actor.read_month.remote()

    async def settle(self, ingress: str, asks: Asks) -> Leases:
        """Raises LessorAway."""
        try:
            actor = self._actor or await asyncio.to_thread(self._reach)
            async with asyncio.timeout(_ANSWER_S):
                leases: Leases = await actor.settle.remote(ingress, asks)
        except ActorDiedError as error:
            self._actor = None  # its name is free: the next call starts another
            raise LessorAway("the actor that leases has died") from error
        except (RayError, TimeoutError, ValueError) as error:
            raise LessorAway(f"the actor that leases does not answer: {error}") from error
        return leases

    def _reach(self) -> Any:
        self._actor = reach_actor(self._application, self._usage)
        return self._actor


def _spent_in(usage: str, month: str) -> dict[str, int]:
    return spent_in(open_storage(usage), month)
