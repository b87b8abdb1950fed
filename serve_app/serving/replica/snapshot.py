"""The state of a replica for health and metrics, as a value. Measures nothing."""

from collections.abc import Collection
from dataclasses import dataclass

from serve_app.engine.stats import Stats
from serve_app.serving.replica.follow import FollowState


@dataclass(frozen=True, slots=True)
class Snapshot:
    """engine: its figures; None before there is an engine.   serving, models: for new requests.

    text_restarts: how often the text process was started again.
    """

    engine: Stats | None
    follow: FollowState
    serving: str | None
    models: Collection[str]
    text_restarts: int
