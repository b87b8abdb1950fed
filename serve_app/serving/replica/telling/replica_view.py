"""What can be seen of a replica from outside: health, status and metrics. Changes nothing."""

from collections import Counter
from collections.abc import Collection, Mapping

from prometheus_client.metrics_core import Metric as Family

from consolidation.release import Aliases, Canary
from serve_app.config import ServeConfig
from serve_app.protocol.messages import Status
from serve_app.scheduling.sequence import ModelKey
from serve_app.serving.metrics.counting import Figure, Metrics
from serve_app.serving.metrics.snapshot import ReleaseState, Snapshot
from serve_app.serving.replica.follow import FollowState
from serve_app.serving.replica.follow_canary import CanaryFollower
from serve_app.serving.replica.open_room import OpenJobs
from serve_app.serving.replica.served_releases import ServedReleases
from serve_app.serving.replica.telling.readiness import Unserved, engine_trouble
from serve_app.serving.replica.telling.status_facts import canary_facts, status_of
from serve_app.serving.routing.engines_wanted import ReplicaDemand, demand
from serve_app.serving.routing.replica_facts import ReplicaFacts
from serve_app.serving.traffic.watched import Watched
from serve_app.text.process.text_client import TextClient


class View:
    """Of one replica, by its parts.

    start_s: how long its start took, once it has served.   has_stopped: whether the engine has.
    """

    def __init__(
        self,
        config: ServeConfig,
        metrics: Metrics,
        releases: ServedReleases,
        follow: FollowState,
        canary: Watched[Canary],
        canary_follower: CanaryFollower,
        aliases: Watched[Aliases],
        open_jobs: OpenJobs,
        text: TextClient,
        unserved: Unserved,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._releases = releases
        self._follow = follow
        self._canary = canary
        self._canary_follower = canary_follower
        self._aliases = aliases
        self._open = open_jobs
        self._text = text
        self._unserved = unserved
        self.start_s: float | None = None
        self.has_stopped = False

    def families(self) -> list[Family]:
        """All metrics, each series with the label `replica`."""
        return self._metrics.families(self._look())

    def figures(self, labels: Collection[str]) -> list[Figure]:
        """See `Metrics.figures`."""
        return self._metrics.figures(self._look(), labels)

    def status(self) -> Status:
        """For `/health` and `/ready`."""
        state, canary = self._canary_follower.state, self._releases.canary
        facts = canary_facts(self._canary, state, canary)
        return status_of(self._look(), self._follow, facts, self._aliases.trouble)

    def facts(self) -> ReplicaFacts:
        """For routers, which choose a replica for each request."""
        loop, current = self._releases.loop, self._releases.current
        if loop is None or current is None:
            return ReplicaFacts()
        stats, aliases = loop.stats(), self._aliases.value
        held = {name for _, name in stats.resident}
        meant = {} if aliases is None else aliases.aliases
        return ReplicaFacts(
            held | {name for name, alias in meant.items() if alias.model in held},
            {release.id for release in self._releases.held},
            admits=self._releases.admits,
            has_all=held.issuperset(current.models),
            has_room=len(held) < stats.num_places,
        )

    def demand(self) -> ReplicaDemand | None:
        """For the autoscaler; None before there is an engine."""
        loop = self._releases.loop
        if loop is None:
            return None
        stats = loop.stats()
        return demand(
            _by_name(stats.num_running_by_model),
            _by_name(stats.num_waiting_by_model),
            {name for _, name in stats.resident},
            places=stats.num_places,
            max_running=self._config.engine.max_sequences,
        )

    def trouble(self) -> str | None:
        """Why the replica is unhealthy, or None."""
        loop, serving = self._releases.loop, self._releases.serving
        return (
            self._text.trouble
            or engine_trouble(self.has_stopped, loop, self._config.stall_s)
            or self._unserved.trouble(serving, self._follow)
        )

    def _look(self) -> Snapshot:
        loop, current = self._releases.loop, self._releases.current
        stats = None if loop is None else loop.stats()
        return Snapshot(
            engine=stats,
            trouble=self.trouble(),
            releases=self._release_state(),
            models=() if current is None else tuple(current.models),
            backlogs=self._metrics.tenants.summed({} if stats is None else stats.by_tenant),
            open_choices=self._open.choices.total,
            max_open_choices=self._config.max_open_choices,
            text_restarts=self._text.num_restarts,
            start_s=self.start_s,
        )

    def _release_state(self) -> ReleaseState:
        state, beside, canary = self._follow, self._canary_follower.state, self._releases.canary
        wanted = self._canary.value
        return ReleaseState(
            wanted=state.wanted,
            serving=self._releases.serving,
            staging=state.staging or beside.staging,
            waits_for_turn=state.waits_for_turn,
            channel_trouble=state.trouble,
            num_switches=state.num_switches,
            num_failures=state.num_failures + beside.num_failures,
            last_staging_s=state.last_staging_s,
            canary=None if canary is None else canary.id,
            canary_percent=0.0 if wanted is None else wanted.percent,
        )


def _by_name(counts: Mapping[ModelKey, int]) -> dict[str, int]:
    """Of all releases together."""
    found = Counter[str]()
    for (_, name), num in counts.items():
        found[name] += num
    return dict(found)
