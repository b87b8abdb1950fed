"""One look at a replica, as health and metrics need it. A value; measures nothing."""

from collections.abc import Collection
from dataclasses import dataclass

from serve_app.engine.stats import Stats
from serve_app.serving.replica.follow import FollowState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """engine: its figures, None before there is one.   serving, models: what new requests get."""

    engine: Stats | None
    follow: FollowState
    serving: str | None
    models: Collection[str]
