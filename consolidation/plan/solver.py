"""Solver: the plan of least error within a byte budget. Pure: values in, one out.

Identical experts always share a slot. Comparing (`consolidation/compare/layer.py`) found, layer by
layer, which other choices may be worth their bytes. Here one budget is spent over all layers, by
error saved per byte.
"""

import math
from collections.abc import Iterator, Sequence

from consolidation.arithmetic.frontier import frontier, spend
from consolidation.compare.groups import Choices, SlotChoice, Use
from consolidation.errors import Refused
from consolidation.plan.chosen_bytes import ChosenBytes
from consolidation.plan.maps import (
    expert_maps,
    planned_bytes,
    planned_layers,
    planned_step_bytes,
)
from consolidation.plan.terms import Extended, LayerChoices, PlanTerms
from consolidation.plan.values import Plan


def make_plan(layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None) -> Plan:
    """The plan with the least error within the bytes allowed; lossless where that fits.

    Raises `Refused`, with the smallest possible budget, when nothing keeps within them.
    """
    choices = least_error(layers, terms, extended)
    if choices is None:
        return lossless_plan(layers, terms, extended)
    return chosen_plan(layers, choices, terms, extended)


def least_error(
    layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None
) -> tuple[Choices, ...] | None:
    """The choices of `make_plan`, for each group; None where the lossless plan fits.

    Raises `Refused` as it does.
    """
    frontiers = [frontier(group.points) for layer in layers for group in layer.groups or ()]
    num_bytes = ChosenBytes(layers, terms.models, extended)
    if terms.allowed is None:
        return None
    if lossless_plan(layers, terms, extended).expert_bytes_after <= terms.allowed:
        return None
    spent = spend(frontiers, terms.allowed, num_bytes)
    if spent is None:
        needed = num_bytes([group[0].choice for group in frontiers])
        raise too_small(terms.allowed, terms.one_model, needed)
    return spent


def too_small(allowed: int, one_model: int, needed: int) -> Refused:
    """The error for a budget below the bytes that are needed. All in bytes."""
    least = math.ceil(needed / one_model * 10000) / 10000
    return Refused(
        f"an expert budget of {allowed / one_model:.4f} ({allowed} bytes) "
        f"cannot be met: the fewest bits for every expert need {needed} bytes, a budget of "
        f"{least:.4f}"
    )


def lossless_plan(
    layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None
) -> Plan:
    """The plan of the fewest bytes in which every expert is what it was, to the bit.

    Each in a slot as it is, or what every frontier ends with, which may be known by fewer bytes.
    An adapted expert may be its base's, as it is, with the factors of its adapter.
    """
    every = [layer.as_they_are(range(len(layer.contents.digests))) for layer in layers]
    plain = _plan(layers, every, terms, extended)
    ends = [group.points[-1] for layer in layers for group in layer.groups or ()]
    if not ends or any(end.error for end in ends):
        return plain
    chosen = _by_layer(layers, [end.choice for end in ends])
    if not all(use.by_adapter for _, use in _not_the_same(layers, chosen)):
        return plain
    found = _plan(layers, chosen, terms, extended)
    return found if found.expert_bytes_after < plain.expert_bytes_after else plain


def chosen_plan(
    layers: Sequence[LayerChoices],
    choices: Sequence[Choices],
    terms: PlanTerms,
    extended: Extended | None,
) -> Plan:
    """The plan of one choice for every group, in order of layers and groups."""
    return _plan(layers, _by_layer(layers, choices), terms, extended)


def chosen_bytes(
    layers: Sequence[LayerChoices],
    choices: Sequence[Choices],
    terms: PlanTerms,
    extended: Extended | None,
) -> int:
    """Bytes of `chosen_plan`, in less time."""
    return ChosenBytes(layers, terms.models, extended)(choices)


def _by_layer(layers: Sequence[LayerChoices], choices: Sequence[Choices]) -> list[list[SlotChoice]]:
    rest = iter(choices)
    return [
        [slot for _ in layer.groups or () for slot in next(rest)] + layer.ungrouped
        for layer in layers
    ]


def least_bytes(layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None) -> int:
    """Bytes of the plan that takes the fewest."""
    smallest = [group.points[0].choice for layer in layers for group in layer.groups or ()]
    return chosen_bytes(layers, smallest, terms, extended)


def _plan(
    layers: Sequence[LayerChoices],
    chosen: Sequence[Sequence[SlotChoice]],
    terms: PlanTerms,
    extended: Extended | None,
) -> Plan:
    made = planned_layers(layers, chosen, extended)
    expert_map, residual_map = maps = expert_maps(made, terms.models, extended)
    errors = _errors(layers, chosen)
    new = {user.model for layer in layers for users in layer.contents.users for user in users}
    predicted = None
    if terms.responses is not None:
        predicted = {name: terms.responses[name](errors.get(name, 0.0)) for name in sorted(new)}
    return Plan(
        models=terms.models,
        layers=tuple(made),
        expert_map=expert_map,
        residual_map=residual_map,
        expert_bytes_before=terms.one_model * len(terms.models),
        expert_bytes_after=planned_bytes(layers, made, maps, extended),
        expert_bytes_one_model=terms.one_model,
        approximated=_approximated(layers, chosen),
        error=math.fsum((predicted or errors).values()),
        predicted_kl=predicted,
        relative_error=None if predicted else _root(math.fsum(errors.values()), terms.square_norm),
        decode_step=terms.decode_step,
        step_bytes=planned_step_bytes(layers, made, maps, extended, terms.decode_step),
    )


def _root(square_error: float, square_norm: float) -> float:
    return math.sqrt(square_error / square_norm) if square_norm else 0.0


def _errors(
    layers: Sequence[LayerChoices], chosen: Sequence[Sequence[SlotChoice]]
) -> dict[str, float]:
    """The expected error, by model."""
    errors: dict[str, list[float]] = {}
    for layer, choices in zip(layers, chosen, strict=True):
        shares = {
            member: share
            for group in layer.groups or ()
            for member, share in zip(group.members, group.shares, strict=True)
        }
        for use in (use for choice in choices for use in choice.uses):
            for model, share in shares.get(use.expert, {}).items():
                errors.setdefault(model, []).append(use.error * share)
    return {model: math.fsum(values) for model, values in errors.items()}


def _approximated(
    layers: Sequence[LayerChoices], chosen: Sequence[Sequence[SlotChoice]]
) -> frozenset[str]:
    """Models with an expert that is not served bit for bit."""
    changed = _not_the_same(layers, chosen)
    users = (user for layer, use in changed for user in layer.contents.users[use.expert])
    return frozenset(user.model for user in users)


def _not_the_same(
    layers: Sequence[LayerChoices], chosen: Sequence[Sequence[SlotChoice]]
) -> Iterator[tuple[LayerChoices, Use]]:
    """Uses that do not give an expert back to the bit."""
    for layer, choices in zip(layers, chosen, strict=True):
        for choice in choices:
            for use in choice.uses:
                kept = layer.contents.kept.get(layer.contents.digests[use.expert])
                exact = SlotChoice.exactly(use.expert, kept)
                if any(one.format.replaces for one in use.residuals):
                    continue
                own = choice.content, choice.forms, use.residuals
                if own != (exact.content, exact.forms, ()):
                    yield layer, use


def budget_bytes(budget: float | None, one_model: int, num_models: int) -> int | None:
    """The budget in bytes; None if a plan that loses nothing is wanted.

    `budget` is expert bytes of the release over those of one model. Raises `Refused` unless it
    is a positive number.
    """
    if budget is None:
        return None
    if not math.isfinite(budget) or budget <= 0:
        raise Refused(f"an expert budget of {budget} is not a positive number")
    return None if budget >= num_models else int(budget * one_model)
