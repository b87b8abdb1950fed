"""Decides which release to load now, and when to look. `served_releases` loads it."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from traceback import clear_frames

from consolidation.release import NewerSchema
from serve_app.config import UserConfig
from serve_app.errors import BadRelease, Unsupported
from serve_app.phase import phase
from serve_app.serving.replica.neighbours import Alone, Neighbours

_log = logging.getLogger(__name__)
FINAL = (BadRelease, NewerSchema, Unsupported)
"""Errors that say of a release what will be as true the next time."""
_FIRST_RETRY_S = 5.0
_LONGEST_RETRY_S = 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A release could not be loaded. `at` is on the follower's clock, in seconds.

    is_final: trying again would change nothing, whoever mends what.
    """

    release: str
    reason: str
    at: float
    attempts: int
    is_final: bool = False

    @classmethod
    def of(cls, release: str, error: Exception, at: float, last: "Failure | None") -> "Failure":
        """It has failed now. last: the failure before."""
        again = last is not None and last.release == release
        attempts = last.attempts + 1 if last is not None and again else 1
        reason = f"{type(error).__name__}: {error}"
        return cls(release, reason, at, attempts, isinstance(error, FINAL))

    def __str__(self) -> str:
        wait = "never" if self.is_final else f"in {self.retry_at - self.at:.0f} s"
        return f"to be tried again {wait}: {self.reason}"

    @property
    def retry_at(self) -> float:
        """Longer and longer: a damaged file may be repaired, but reading it all day is no use."""
        if self.is_final:
            return math.inf
        return self.at + min(_FIRST_RETRY_S * 2.0 ** (self.attempts - 1), _LONGEST_RETRY_S)


@dataclass(frozen=True, slots=True)
class Situation:
    """What is served, what is wanted (by the channel, or pinned), and the last failure."""

    serving: str | None
    wanted: str | None
    failure: Failure | None
    now: float


def decide(situation: Situation) -> str | None:
    """The release to load now; None if nothing should change."""
    wanted, failure = situation.wanted, situation.failure
    if wanted is None or wanted == situation.serving:
        return None
    if failure is not None and failure.release == wanted and situation.now < failure.retry_at:
        return None
    return wanted


@dataclass(slots=True)
class FollowState:
    """What the follower knows, for health and metrics. `trouble`: why the channel is unreadable.

    waits_for_turn: whether a release is to be taken up once another replica has done so.
    """

    target: UserConfig | None = None
    wanted: str | None = None
    staging: str | None = None
    failure: Failure | None = None
    trouble: str | None = None
    waits_for_turn: bool = False
    num_switches: int = 0
    num_failures: int = 0
    last_staging_s: float = 0.0


class Follower:
    """Looks where the target points, and loads what it finds there.

    read_channel: name -> release or None; blocks, and is called on a thread.
    take_up: makes new requests use that release; if it cannot, raises and changes nothing.
    look_beside: gets the channel's name, or None for a pinned release, after each look.
    neighbours: while this serves a release, it takes up another only in its turn among them.
    """

    def __init__(
        self,
        read_channel: Callable[[str], str | None],
        take_up: Callable[[str], Awaitable[None]],
        serving: Callable[[], str | None],
        *,
        poll_s: float,
        clock: Callable[[], float],
        look_beside: Callable[[str | None], Awaitable[None]] | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._read_channel = read_channel
        self._take_up = take_up
        self._serving = serving
        self._poll_s = poll_s
        self._clock = clock
        self._look_beside = look_beside
        self._neighbours = Alone() if neighbours is None else neighbours
        self._poked = asyncio.Event()
        self.state = FollowState()

    def aim(self, target: UserConfig) -> None:
        """Follows that channel, or pins that release, from now on. Returns at once."""
        self.state.target = target
        self.state.failure = None
        self._poked.set()

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            await self.look()
            if self._look_beside is not None and self.state.target is not None:
                await self._look_beside(self.state.target.channel)
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._poked.wait()
            except TimeoutError:
                continue
            self._poked.clear()

    async def look(self) -> None:
        """Looks once, and acts on what it finds."""
        state = self.state
        state.wanted = await self._wanted()
        release = decide(Situation(self._serving(), state.wanted, state.failure, self._clock()))
        state.waits_for_turn = not (
            release is None or self._serving() is None or await self._neighbours.take_turn()
        )
        if release is None or state.waits_for_turn:
            return
        begun = self._clock()
        state.staging = release
        try:
            with phase(f"reading release {release}", _log.info):
                await self._take_up(release)
        except Exception as error:  # noqa: BLE001  whatever it is, the old release keeps serving
            self._failed(release, error)
            # A future and its error hold each other, and the error what every call had: an engine.
            clear_frames(error.__traceback__)
        else:
            state.failure = None
            state.num_switches += 1
            state.last_staging_s = self._clock() - begun
            _log.info("serving release %s after %.1f s", release, state.last_staging_s)
        finally:
            state.staging = None
            await self._neighbours.end_turn()

    async def _wanted(self) -> str | None:
        """If it cannot be read, the wanted release stays the same."""
        target = self.state.target
        if target is None or target.channel is None:
            return None if target is None else target.release
        try:
            release = await asyncio.to_thread(self._read_channel, target.channel)
        except Exception as error:  # noqa: BLE001  storage may fail in any way; it is asked again
            trouble = f"channel '{target.channel}' cannot be read: {error}"
            if trouble != self.state.trouble:
                _log.warning("%s", trouble)
            self.state.trouble = trouble
            return self.state.wanted
        missing = f"there is no channel '{target.channel}'" if release is None else None
        if missing is not None and missing != self.state.trouble:
            _log.warning("%s", missing)
        self.state.trouble = missing
        return release if release is not None else self.state.wanted

    def _failed(self, release: str, error: Exception) -> None:
        state = self.state
        state.failure = Failure.of(release, error, self._clock(), state.failure)
        state.num_failures += 1
        _log.error("release %s was not taken up, %s, %s", release, self._kept(), state.failure)

    def _kept(self) -> str:
        serving = self._serving()
        return "nothing is being served" if serving is None else f"{serving} goes on serving"
