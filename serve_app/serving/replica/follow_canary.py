"""Keeps the canary loaded that the file beside the channel names. Decides no request's side."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from consolidation.release import Canary
from serve_app.serving.replica.follow import Failure, Situation, decide
from serve_app.serving.replica.neighbours import Neighbours
from serve_app.serving.replica.served_releases import ServedReleases
from serve_app.serving.traffic.watched import Watched

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class CanaryState:
    """What is known of it, for health and metrics. `failure`: of the release that is wanted."""

    staging: str | None = None
    failure: Failure | None = None
    num_failures: int = 0


class CanaryFollower:
    """Looks what the file says, and loads the canary or lets it go.

    While a canary cannot be loaded, its share is answered by the channel's own release.
    """

    def __init__(
        self,
        watched: Watched[Canary],
        releases: ServedReleases,
        clock: Callable[[], float],
        neighbours: Neighbours,
    ) -> None:
        """neighbours: a canary is loaded only in this replica's turn among them."""
        self._watched = watched
        self._releases = releases
        self._clock = clock
        self._neighbours = neighbours
        self.state = CanaryState()

    async def look(self, channel: str | None) -> None:
        """Looks once, and acts on what it finds. Not while another release is being loaded."""
        canary = await self._watched.look(channel)
        serving, releases, state = self._releases.serving, self._releases, self.state
        wanted = None if canary is None or canary.release == serving else canary.release
        if releases.canary is not None and releases.canary.id != wanted:
            releases.end_canary()
        if wanted is None or (state.failure is not None and state.failure.release != wanted):
            state.failure = None
        if serving is None:
            return
        now = None if releases.canary is None else releases.canary.id
        release = decide(Situation(now, wanted, state.failure, self._clock()))
        if release is None or not await self._neighbours.take_turn():
            return
        state.staging = release
        try:
            await releases.take_up_canary(release)
        except Exception as error:  # noqa: BLE001  whatever it is, the channel's release answers
            self._failed(release, error)
        else:
            state.failure = None
            _log.info("canary %s is being served", release)
        finally:
            state.staging = None
            await self._neighbours.end_turn()

    def _failed(self, release: str, error: Exception) -> None:
        state = self.state
        state.failure = Failure.of(release, error, self._clock(), state.failure)
        state.num_failures += 1
        _log.error(
            "canary %s was not taken up, %s answers its share, %s",
            release,
            self._releases.serving,
            state.failure,
        )
