"""Numbers of the running engine, as health and metrics need them. A value; measures nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Load:
    """heartbeat: monotonic seconds of the engine's last turn. Totals count from the start.

    running, waiting: sequences by model name. gauges, totals: further numbers by metric name,
    without prefix; a total's name ends in `_total`.
    """

    heartbeat: float
    running: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    gauges: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, float] = field(default_factory=dict)
