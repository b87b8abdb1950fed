"""Whether a replica serves anything, and what it waits for if it does not. Loads nothing."""

import asyncio
import logging
import time
from collections.abc import Callable

from serve_app.errors import EngineError
from serve_app.serving.replica.dependencies import Loop
from serve_app.serving.replica.follow import FollowState

_log = logging.getLogger(__name__)
TOLD_S = 30.0
"""How often a replica that waits says so."""


def waits_for(state: FollowState) -> str:
    """Why nothing is served, as far as the follower knows."""
    if state.staging is not None:
        return f"release {state.staging} is being loaded"
    if state.failure is not None and state.failure.release == state.wanted:
        return f"release {state.failure.release}, {state.failure}"
    return state.trouble or "the channel is being read"


def engine_trouble(has_stopped: bool, loop: Loop | None, stall_s: float) -> str | None:
    """Why no engine will answer, or None.   stall_s: the longest time without a turn."""
    if has_stopped or loop is None:
        return "the engine has stopped" if has_stopped else None
    age = time.monotonic() - loop.stats().heartbeat
    return None if age <= stall_s else f"the engine has not stepped for {age:.0f} s"


class Unserved:
    """For how long a replica that has served has had nothing to serve. Before, it only waits."""

    def __init__(self, longest_s: float, clock: Callable[[], float]) -> None:
        self._longest_s = longest_s
        self._clock = clock
        self._served_at: float | None = None

    def trouble(self, serving: str | None, state: FollowState) -> str | None:
        """What to say if that is too long. To be called again and again.

        serving: the release that answers new requests now.
        """
        now = self._clock()
        if serving is not None:
            self._served_at = now
        if self._served_at is None or now - self._served_at < self._longest_s:
            return None
        return f"nothing has been served for {now - self._served_at:.0f} s: {waits_for(state)}"


async def until_serving(
    serves: asyncio.Event,
    following: "asyncio.Task[None]",
    where: str,
    state: FollowState,
    trouble: Callable[[], str | None],
    told_s: float = TOLD_S,
) -> None:
    """Returns when a release is served, and says every `told_s` seconds what that waits for.

    serves: set then.   following: the task that loads it.   where: releases come from.
    trouble: why it never will be, in this process.

    Raises EngineError with that; whatever ended `following`.
    """
    waiting = asyncio.ensure_future(serves.wait())
    waited_s = 0.0
    try:
        while True:
            either: set[asyncio.Future[object]] = {waiting, following}  # type: ignore[arg-type]
            await asyncio.wait(either, timeout=told_s, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return
            if following.done():
                following.result()
                raise EngineError("nothing looks for releases any more")
            reason = trouble()
            if reason is not None:
                raise EngineError(reason)
            waited_s += told_s
            _log.warning("nothing to serve for %.0f s, %s: %s", waited_s, where, waits_for(state))
    finally:
        waiting.cancel()
