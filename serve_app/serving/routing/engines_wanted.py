"""How many engine replicas are wanted, by what is asked of them. Ray Serve's controller calls it.

It imports neither the engine nor models, which the controller's process does without.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

TARGET = 0.75
"""The share of what a replica can run at once that it should run: the rest is for bursts."""
ROOM_AT_LEAST = 8
"""Where choices wait, room is what runs, but at least one part in so many of the limit: a choice
that has only just come waits too.
"""
_LOAD, _PLACES, _MODEL = "load", "places", "model:"


@dataclass(frozen=True, slots=True)
class ReplicaDemand:
    """What is asked of a replica. Serve averages the numbers over its look-back period.

    load: choices that run or wait for room, as a share of those that can run.   places: models that
    the device has room for at once.   models: those that have requests.
    """

    load: float
    places: float
    models: frozenset[str]

    def told(self) -> dict[str, float]:
        """For Serve, which carries numbers by name."""
        return {
            _LOAD: self.load,
            _PLACES: self.places,
            **{_MODEL + model: 1.0 for model in sorted(self.models)},
        }

    @classmethod
    def read(cls, told: Mapping[str, float]) -> Self | None:
        """What `told` has made; None if something is missing."""
        if _LOAD not in told or _PLACES not in told:
            return None
        models = (name.removeprefix(_MODEL) for name in told if name.startswith(_MODEL))
        return cls(told[_LOAD], told[_PLACES], frozenset(models))


def demand(
    running: Mapping[str, int],
    waiting: Mapping[str, int],
    resident: Iterable[str],
    *,
    places: int,
    max_running: int,
) -> ReplicaDemand:
    """running, waiting: choices by model.   resident: models on the device.

    max_running: the most choices that may run at once. Those that wait for a place do not count as
    load: no more of them could run if there were more room.
    """
    held = set(resident)
    runs = sum(running.values())
    here = sum(num for model, num in waiting.items() if model in held)
    room = max(1, runs, max_running // ROOM_AT_LEAST) if here else max_running
    asked = {model for by in (running, waiting) for model, num in by.items() if num}
    # Models with equal backbones share a place.
    return ReplicaDemand((runs + here) / room, float(max(places, len(held))), frozenset(asked))


def wanted(demands: Sequence[ReplicaDemand]) -> int:
    """Replicas for how much is asked, and for how many models; at least one."""
    for_load = math.ceil(round(sum(one.load for one in demands) / TARGET, 6))
    models = frozenset[str]().union(*(one.models for one in demands))
    places = max((one.places for one in demands), default=1.0)
    return max(1, for_load, math.ceil(len(models) / max(1.0, places)))


def policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's `policy_function`. Serve keeps to the limits and delays of its
    `autoscaling_config`. Nothing changes before all replicas have told what is asked of them.
    """
    by_replica: dict[Any, dict[str, float]] = {one: {} for one in context.running_replicas}
    for name, figures in (context.aggregated_metrics or {}).items():
        for replica, value in figures.items():
            if replica in by_replica:
                by_replica[replica][name] = value
    told = [ReplicaDemand.read(one) for one in by_replica.values()]
    known = [one for one in told if one is not None]
    if not known or len(known) < len(told):
        return int(context.target_num_replicas), {}
    return wanted(known), {}
