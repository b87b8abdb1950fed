"""The least error for every number of bytes: convex frontiers of choices. Pure; knows no expert.

A frontier lists choices by rising bytes and falling error, each the best at some price per byte.
Frontiers of independent choices add up by taking their steps in order of error saved per byte. So
spending one budget over thousands of choices is exact at the corners of the convex hull (the sum of
convex hulls is the hull of the sums).
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Point(Generic[Choice]):
    """One choice: the bytes that it takes, and its error."""

    num_bytes: int
    error: float
    choice: Choice


Frontier = Sequence[Point[Choice]]
_ORDER = attrgetter("num_bytes", "error")


def frontier(points: Iterable[Point[Choice]]) -> tuple[Point[Choice], ...]:
    """The corners of the lower left convex hull, by rising bytes; of equal ones the first."""
    found: list[Point[Choice]] = []
    gains: list[float] = []  # from each point to the next
    for point in sorted(points, key=_ORDER):
        if found and point.error >= found[-1].error:
            continue
        while gains and gains[-1] <= _gain(found[-2], point):
            found.pop()
            gains.pop()
        if found:
            gains.append(_gain(found[-1], point))
        found.append(point)
    return tuple(found)


def total(frontiers: Sequence[Frontier[Choice]]) -> tuple[Point[tuple[Choice, ...]], ...]:
    """The frontier of sums of one choice from each frontier, in their order."""
    at = [0] * len(frontiers)
    num_bytes = sum(f[0].num_bytes for f in frontiers)
    chosen = tuple(f[0].choice for f in frontiers)
    points = [Point(num_bytes, math.fsum(f[0].error for f in frontiers), chosen)]
    for _, which in steps(frontiers):
        before, after = frontiers[which][at[which] : at[which] + 2]
        at[which] += 1
        num_bytes += after.num_bytes - before.num_bytes
        chosen = (*chosen[:which], after.choice, *chosen[which + 1 :])
        error = math.fsum(f[i].error for f, i in zip(frontiers, at, strict=True))
        points.append(Point(num_bytes, error, chosen))
    return frontier(points)


def steps(frontiers: Sequence[Frontier[Choice]]) -> list[tuple[float, int]]:
    """(error saved per byte, which frontier) of every step, the best first.

    The steps of one frontier come in its own order; among equals the earlier frontier's first.
    """
    heap = [(-_gain(f[0], f[1]), which, 0) for which, f in enumerate(frontiers) if len(f) > 1]
    heapq.heapify(heap)
    found = []
    while heap:
        negative, which, position = heapq.heappop(heap)
        found.append((-negative, which))
        following = frontiers[which][position + 1 : position + 3]
        if len(following) == 2:
            heapq.heappush(heap, (-_gain(*following), which, position + 1))
    return found


def spend(
    frontiers: Sequence[Frontier[Choice]],
    allowed: int,
    num_bytes: Callable[[Sequence[Choice]], int],
) -> tuple[Choice, ...] | None:
    """The choices with the least error that fit into `allowed` bytes; None if none do.

    Takes steps in order of error saved per byte until one no longer fits, then any later ones that
    still do. `num_bytes` gives the exact bytes of choices together, which may be a little more
    than their sum.
    """
    at = [0] * len(frontiers)
    ordered = steps(frontiers)

    def chosen(count: int) -> list[Choice]:
        taken = [0] * len(frontiers)
        for _, which in ordered[:count]:
            taken[which] += 1
        return [f[i].choice for f, i in zip(frontiers, taken, strict=True)]

    if num_bytes(chosen(0)) > allowed:
        return None
    count = bisect_right(range(len(ordered) + 1), allowed, key=lambda n: num_bytes(chosen(n))) - 1
    for _, which in ordered[:count]:
        at[which] += 1
    best = chosen(count)
    closed: set[int] = set()
    spare = allowed - num_bytes(best)
    for _, which in ordered[count:]:
        if which in closed:
            continue
        before, after = frontiers[which][at[which] : at[which] + 2]
        if after.num_bytes - before.num_bytes <= spare:
            trial = [*best[:which], after.choice, *best[which + 1 :]]
            left = allowed - num_bytes(trial)
            if left >= 0:
                best, at[which], spare = trial, at[which] + 1, left
                continue
        closed.add(which)
    return tuple(best)


def least_sum(frontiers: Sequence[Frontier[Choice]], allowed: int) -> float:
    """No choices within `allowed` bytes have less error; infinite if none are within them.

    The sum of the hulls at that many bytes, between their corners too.
    """
    left = allowed - sum(f[0].num_bytes for f in frontiers)
    if left < 0:
        return math.inf
    error = math.fsum(f[0].error for f in frontiers)
    at = [0] * len(frontiers)
    for gain, which in steps(frontiers):
        before, after = frontiers[which][at[which] : at[which] + 2]
        at[which] += 1
        taken = min(left, after.num_bytes - before.num_bytes)
        error -= gain * taken
        left -= taken
        if left <= 0:
            break
    return max(0.0, error)


def _gain(before: Point[Choice], after: Point[Choice]) -> float:
    """Error saved per additional byte."""
    return (before.error - after.error) / (after.num_bytes - before.num_bytes)
