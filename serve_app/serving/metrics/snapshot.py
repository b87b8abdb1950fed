"""The state of a replica for health and metrics, as a value. Measures nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.engine.backlog import Backlog

if TYPE_CHECKING:  # it brings torch, which who only reads the table can do without
    from serve_app.engine.stats import Stats


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """What is served and what should be.

    wanted: by the channel, or pinned.   staging: what is being read now, a canary too.
    waits_for_turn: whether that has to wait for another replica.
    channel_trouble: why the channel is unreadable.   last_staging_s: how long the last one took.
    canary: the release that answers on that side, if one does.   canary_percent: its share, as the
    file says, even if nothing can answer it.
    """

    wanted: str | None = None
    serving: str | None = None
    staging: str | None = None
    waits_for_turn: bool = False
    channel_trouble: str | None = None
    num_switches: int = 0
    num_failures: int = 0
    last_staging_s: float = 0.0
    canary: str | None = None
    canary_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """engine: its figures; None before there is an engine.   trouble: why the replica is unhealthy.

    models: for new requests.   backlogs: by the tenants' labels in metrics.   text_restarts: how
    often the text process was started again.   start_s: how long its start took, once it has
    served.
    """

    engine: "Stats | None"
    trouble: str | None
    releases: ReleaseState
    models: Collection[str]
    backlogs: Mapping[str, Backlog]
    open_choices: int
    max_open_choices: int
    text_restarts: int
    start_s: float | None

    @property
    def is_ready(self) -> bool:
        """Whether it answers new requests."""
        return self.trouble is None and self.releases.serving is not None
