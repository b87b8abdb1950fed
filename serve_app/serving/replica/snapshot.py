"""The state of a replica for health and metrics, as a value. Measures nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from serve_app.engine.backlog import Backlog
from serve_app.engine.stats import Stats
from serve_app.serving.replica.follow import FollowState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """engine: its figures; None before there is an engine.   serving, models: for new requests.

    canary: the release that answers on that side, if one does.   canary_percent: its share, as the
    file says, even if nothing can answer it.

    backlogs: by the tenants' labels in metrics.   text_restarts: how often the text process was
    started again.   start_s: how long its start took, once it has served.
    """

    engine: Stats | None
    follow: FollowState
    serving: str | None
    canary: str | None
    canary_percent: float
    canary_failures: int
    models: Collection[str]
    backlogs: Mapping[str, Backlog]
    text_restarts: int
    start_s: float | None
