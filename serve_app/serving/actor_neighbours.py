"""`Neighbours` by the actor that all replicas share. Whose turn it is, the actor decides."""

import asyncio
import logging
from typing import Any

from ray.exceptions import ActorDiedError, RayError

from serve_app.serving.lease_actor import reach_actor
from serve_app.serving.routing.turn import HELD_S

_log = logging.getLogger(__name__)
_ANSWER_S = 3.0
"""After so long without an answer, the actor is away."""


class ActorNeighbours:
    """While the actor is away, nobody waits for a turn: a release matters more than its order."""

    hear_s = 2.0
    """Serve asks for routing facts twice a second, and tells ingresses when they change."""

    def __init__(self, application: str, replica: str, usage: str | None) -> None:
        """usage: the address of usage records, which the actor may be asked for."""
        self._application = application
        self._replica = replica
        self._usage = usage
        self._actor: Any = None
        self._keeping: asyncio.Task[None] | None = None
        self._waits = False

    async def take_turn(self) -> bool:
        if not await self._asked("take_turn"):
            if not self._waits:
                _log.info("another replica stages a release or drains: this one waits for its turn")
            self._waits = True
            return False
        self._waits = False
        self._keeping = asyncio.get_running_loop().create_task(self._keep())
        return True

    async def end_turn(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
            await self._asked("end_turn")

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(HELD_S / 3)
            await self._asked("take_turn")

    async def _asked(self, method: str) -> bool:
        """What the actor answers; true if it does not."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                if self._actor is None:
                    self._actor = await asyncio.to_thread(
                        reach_actor, self._application, self._usage
                    )
                return bool(await getattr(self._actor, method).remote(self._replica))
        except ActorDiedError:
            self._actor = None  # its name is free: the next call starts another
        except (RayError, TimeoutError, ValueError) as error:
            _log.warning("turns are not kept: %s", str(error) or type(error).__name__)
        return True
