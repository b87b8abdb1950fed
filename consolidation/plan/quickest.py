"""Among plans that lose nearly as little in as many bytes, the one whose steps take least time.

Time is given a price in error, and the budget is spent again. Of a few prices, the highest is taken
at which the plan still loses little enough.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from consolidation.compare.groups import Choices
from consolidation.plan.seconds import LayerSeconds, formats_seconds
from consolidation.plan.solver import chosen_plan, least_error, lossless_plan
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
from consolidation.plan.values import Plan

TOLERANCE = 1.03
"""How many times the least divergence a plan may be expected to have that takes less time."""
PRICES = tuple(5.0 / 1.4**number for number in range(16))
"""Of time, the highest first: 1 is a hundredth of the error for a hundredth of the time."""
TRIES = 3
"""How many plans are made, at the highest prices that seem to be low enough."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One choice for a group."""

    num_bytes: int
    error: float
    seconds: float
    choice: Choices


def quickest_plan(
    layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None
) -> Plan:
    """The plan of least error, or one in no more bytes whose steps read no more and take less time.

    Its divergence is expected to be at most `TOLERANCE` times the least. Raises `Refused`.
    """
    choices = least_error(layers, terms, extended)
    if choices is None:
        return lossless_plan(layers, terms, extended)
    least = chosen_plan(layers, choices, terms, extended)
    if least.error == 0:
        return least
    assert terms.allowed is not None
    groups, before = _candidates(layers, choices, terms)
    allowed = sum(one.num_bytes for one in before)
    for found in islice(_quicker(groups, allowed), TRIES):
        if _seconds(layers, found) >= _seconds(layers, before):
            continue
        plan = chosen_plan(layers, [one.choice for one in found], terms, extended)
        if (
            plan.expert_bytes_after <= terms.allowed
            and plan.step_bytes <= least.step_bytes
            and plan.error <= TOLERANCE * least.error
        ):
            return plan
    return least


def _candidates(
    layers: Sequence[LayerChoices], choices: Sequence[Choices], terms: PlanTerms
) -> tuple[list[list[_Candidate]], list[_Candidate]]:
    """All candidates of each group, and those that were chosen."""
    groups, before = [], []
    rest = iter(choices)
    for layer in layers:
        seconds = LayerSeconds(layer, terms.decode_step)
        for group in layer.groups or ():
            wanted = next(rest)
            found = [
                _Candidate(p.num_bytes, p.error, seconds.of(p.choice), p.choice)
                for p in group.points
            ]
            groups.append(found)
            before.append(next(one for one in found if one.choice is wanted))
    return groups, before


def _quicker(
    groups: Sequence[Sequence[_Candidate]], allowed: int
) -> Iterator[Sequence[_Candidate]]:
    """Candidates at prices that lose little enough as far as is known, the highest first.

    Each is the best at one price of a byte, so a little of the budget may be left.
    """
    width = max(map(len, groups))
    table = torch.zeros((3, len(groups), width), dtype=torch.float64)
    table[1] = math.inf  # Nothing is there.
    for row, group in enumerate(groups):
        values = [(one.num_bytes, one.error, one.seconds) for one in group]
        table[:, row, : len(group)] = torch.tensor(values, dtype=torch.float64).T
    num_bytes, error, seconds = table  # (G, P) each

    def best(price: float) -> torch.Tensor:
        """Within the budget: which candidate of each group. -> (G, 1)"""
        low, high = -80.0, 40.0  # logarithms of a price of a byte
        cost = error + price * seconds
        for _ in range(50):
            middle = (low + high) / 2
            found = (cost + math.exp(middle) * num_bytes).argmin(1, keepdim=True)
            fits = float(num_bytes.gather(1, found).sum()) <= allowed
            low, high = (low, middle) if fits else (middle, high)
        chosen: torch.Tensor = (cost + math.exp(high) * num_bytes).argmin(1, keepdim=True)
        return chosen

    start = best(0.0)
    least, time = (float(of.gather(1, start).sum()) for of in (error, seconds))
    for price in PRICES if least and time else ():
        found = best(price * least / time)
        if float(error.gather(1, found).sum()) <= TOLERANCE * least:
            which = found.flatten().tolist()
            yield [group[place] for group, place in zip(groups, which, strict=True)]


def _seconds(layers: Sequence[LayerChoices], chosen: Sequence[_Candidate]) -> float:
    rest = iter(chosen)
    by_layer = [[next(rest).choice for _ in layer.groups or ()] for layer in layers]
    return math.fsum(one.seconds for one in chosen) + formats_seconds(by_layer)
