"""Solver: the plan of least error within a byte budget. Pure: values in, one out.

Identical experts always share. What else is worth its bytes was found layer by layer
(`consolidation/compare/layer.py`); here one budget is spent over all layers, by error saved per
byte.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from consolidation.arithmetic.frontier import spend
from consolidation.checkpoints.contents import Contents, Expert, NeuronOrder
from consolidation.compare.groups import BASE, EXPERTS, KEPT, Choices, Group, SlotChoice
from consolidation.compare.menu import FileSizes
from consolidation.errors import Refused
from consolidation.plan.values import (
    Held,
    KeptSlot,
    Maps,
    Member,
    Plan,
    PlannedLayer,
    ResidualMaps,
    Slot,
)
from consolidation.release import Manifest, expert_map_bytes, residual_map_bytes
from representation.formats import DENSE


@dataclass(frozen=True, slots=True)
class LayerChoices:
    """A layer's distinct experts, and what may be done with them. No groups: nothing is merged."""

    contents: Contents
    sizes: FileSizes
    groups: tuple[Group, ...] | None


@dataclass(frozen=True, slots=True)
class Extended:
    """A release that is extended, and the models of it that stay."""

    manifest: Manifest
    models: tuple[str, ...]

    def slots(self, layer: int) -> list[int]:
        """Slots that the models that stay use."""
        rows = [self.manifest.models[name].expert_map[layer] for name in self.models]
        return sorted({slot for row in rows for slot in row})

    def residuals(self, layer: int) -> list[int]:
        """Residuals that the models that stay use."""
        models = [self.manifest.models[name] for name in self.models]
        rows = [model.residual_map[layer] for model in models if model.residual_map]
        return sorted({residual for row in rows for own in row for residual in own})


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan must keep to. `allowed` bytes: None merges only what is identical.

    `responses` tell, by model, the divergence that an error is expected to cause; None where
    nothing was calibrated, and errors are squares of weights.
    """

    models: tuple[str, ...]
    one_model: int
    allowed: int | None
    responses: Mapping[str, Callable[[float], float]] | None
    square_norm: float


def make_plan(layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None) -> Plan:
    """The plan with the least error within the bytes allowed: nothing is lost where that fits.

    Raises `Refused`, with the smallest possible budget, when nothing keeps within them.
    """
    frontiers = [group.points for layer in layers for group in layer.groups or ()]

    def plan(choices: Sequence[Choices]) -> Plan:
        return _chosen_plan(layers, choices, terms, extended)

    lossless = _plan(layers, [_as_they_are(layer) for layer in layers], terms, extended)
    if terms.allowed is None or lossless.expert_bytes_after <= terms.allowed:
        return lossless
    spent = spend(frontiers, terms.allowed, lambda choices: plan(choices).expert_bytes_after)
    if spent is None:
        needed = plan([group[0].choice for group in frontiers]).expert_bytes_after
        least = math.ceil(needed / terms.one_model * 10000) / 10000
        raise Refused(
            f"an expert budget of {terms.allowed / terms.one_model:.4f} ({terms.allowed} bytes) "
            f"cannot be met: the fewest bits for every expert need {needed} bytes, a budget of "
            f"{least:.4f}"
        )
    return plan(spent)


def _chosen_plan(
    layers: Sequence[LayerChoices],
    choices: Sequence[Choices],
    terms: PlanTerms,
    extended: Extended | None,
) -> Plan:
    """The plan of one choice for every group, in order of layers and groups."""
    rest = iter(choices)
    chosen = [
        [slot for _ in layer.groups or () for slot in next(rest)] + _ungrouped(layer)
        for layer in layers
    ]
    return _plan(layers, chosen, terms, extended)


def fewest_bytes(
    layers: Sequence[LayerChoices], terms: PlanTerms, extended: Extended | None
) -> int:
    """Bytes of the plan that takes the fewest."""
    smallest = [group.points[0].choice for layer in layers for group in layer.groups or ()]
    return _chosen_plan(layers, smallest, terms, extended).expert_bytes_after


def _as_they_are(layer: LayerChoices) -> list[SlotChoice]:
    """Choices for the experts of a layer that lose nothing, by position."""
    return [
        SlotChoice.exactly(position, layer.contents.kept.get(digest))
        for position, digest in enumerate(layer.contents.digests)
    ]


def _ungrouped(layer: LayerChoices) -> list[SlotChoice]:
    """Choices for the experts of a layer that no group has: each is what it was."""
    grouped = {member for group in layer.groups or () for member in group.members}
    every = enumerate(_as_they_are(layer))
    return [choice for position, choice in every if position not in grouped]


def _plan(
    layers: Sequence[LayerChoices],
    chosen: Sequence[Sequence[SlotChoice]],
    terms: PlanTerms,
    extended: Extended | None,
) -> Plan:
    made = [
        _layer(number, layer, choices, extended)
        for number, (layer, choices) in enumerate(zip(layers, chosen, strict=True))
    ]
    expert_map, residual_map = _maps(made, terms.models, extended)
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
        expert_bytes_after=_bytes_after(layers, made, extended)
        + sum(expert_map_bytes(rows) for rows in expert_map.values())
        + sum(residual_map_bytes(rows) for rows in residual_map.values()),
        expert_bytes_one_model=terms.one_model,
        budget_bytes=terms.allowed,
        approximated=_approximated(layers, chosen),
        error=math.fsum((predicted or errors).values()),
        predicted_kl=predicted,
        relative_error=None if predicted else _root(math.fsum(errors.values()), terms.square_norm),
    )


def _root(square_error: float, square_norm: float) -> float:
    return math.sqrt(square_error / square_norm) if square_norm else 0.0


def _layer(
    number: int, layer: LayerChoices, choices: Sequence[SlotChoice], extended: Extended | None
) -> PlannedLayer:
    contents = layer.contents
    groups = {member: group for group in layer.groups or () for member in group.members}
    built, shared = [], dict[int, tuple[Member, ...]]()
    for choice in sorted(choices, key=lambda choice: choice.uses[0].expert):
        kind, positions = choice.content.kind, choice.content.positions
        orders = _orders(contents, groups.get(choice.uses[0].expert), choice)
        members = tuple(
            Member(contents.users[use.expert], use.residual, orders.get(use.expert))
            for use in choice.uses
        )
        if kind == KEPT:
            shared[positions[0]] = shared.get(positions[0], ()) + members
            continue
        if kind == BASE:
            built.append(Slot((Held(None, positions[0]),), choice.format, members, None))
            continue
        holds = tuple(
            _held(contents.users[position], orders.get(position)) for position in positions
        )
        as_it_is = len(holds) == 1 and choice.format == DENSE and holds[0].order is None
        digest = contents.digests[positions[0]] if as_it_is else None
        built.append(Slot(holds, choice.format, members, digest))
    kept = sorted({*(extended.slots(number) if extended else ()), *shared})
    return PlannedLayer(
        module=contents.module,
        kept=tuple(KeptSlot(index, shared.get(index, ())) for index in kept),
        slots=tuple(built),
        kept_residuals=tuple(extended.residuals(number)) if extended else (),
    )


def _held(users: Sequence[Expert], order: NeuronOrder | None) -> Held:
    return Held(users[0].model, users[0].index, len(users), order)


def _orders(contents: Contents, group: Group | None, choice: SlotChoice) -> dict[int, NeuronOrder]:
    """The orders of neurons that experts of one slot are put in, by position.

    Experts that all lie in the same other order are left in it.
    """
    content = choice.content
    positions = {use.expert for use in choice.uses}
    if content.kind == EXPERTS:
        positions |= {*content.positions}
    via = {position: group.via.get(position) if group else None for position in positions}
    if group is None or (content.kind == EXPERTS and len(set(via.values())) == 1):
        return {}
    reference = contents.users[group.members[0]][0]
    return {
        position: NeuronOrder(contents.users[other][0], reference)
        for position, other in via.items()
        if other is not None
    }


def _maps(
    layers: Sequence[PlannedLayer], models: Sequence[str], extended: Extended | None
) -> tuple[Maps, ResidualMaps]:
    slots: dict[str, list[tuple[int, ...]]] = {name: [] for name in models}
    residuals: dict[str, list[tuple[tuple[int, ...], ...]]] = {name: [] for name in models}
    for number, layer in enumerate(layers):
        found: dict[str, dict[int, tuple[int, tuple[int, ...]]]] = {name: {} for name in models}
        end = len(layer.kept_residuals)
        for slot, member in layer.members:
            own = tuple(range(end, end + len(member.residuals)))
            end += len(own)
            for user in member.users:
                found[user.model][user.index] = slot, own
        slot_at = {kept.index: place for place, kept in enumerate(layer.kept)}
        residual_at = {index: place for place, index in enumerate(layer.kept_residuals)}
        for name in extended.models if extended else ():
            before = extended.manifest.models[name] if extended else None
            for index, slot in enumerate(before.expert_map[number] if before else ()):
                kept = before.residuals(number, index) if before else ()
                found[name][index] = slot_at[slot], tuple(residual_at[r] for r in kept)
        for name, experts in found.items():
            ordered = [experts[index] for index in sorted(experts)]
            slots[name].append(tuple(slot for slot, _ in ordered))
            residuals[name].append(tuple(own for _, own in ordered))
    return (
        {name: tuple(rows) for name, rows in slots.items()},
        {
            name: tuple(rows) if any(own for row in rows for own in row) else ()
            for name, rows in residuals.items()
        },
    )


def _bytes_after(
    choices: Sequence[LayerChoices], layers: Sequence[PlannedLayer], extended: Extended | None
) -> int:
    """Bytes of all files, each content that is known beforehand once."""
    known: dict[str, int] = {}
    size = 0
    for number, (layer, choice) in enumerate(zip(layers, choices, strict=True)):
        for slot in layer.slots:
            if slot.digest is None:
                size += choice.sizes.slot(slot.format)
            else:
                known[slot.digest] = choice.sizes.slot(slot.format)
        size += sum(choice.sizes.residual(f) for _, m in layer.members for f in m.residuals)
        if extended is not None:
            there = extended.manifest.layers[number]
            kept = [there.slots[slot.index] for slot in layer.kept]
            kept += [there.residuals[index] for index in layer.kept_residuals]
            known |= {part.digest: part.bytes for part in kept}
    return size + sum(known.values())


def _errors(
    layers: Sequence[LayerChoices], chosen: Sequence[Sequence[SlotChoice]]
) -> dict[str, float]:
    """The error that is expected, by model."""
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
    """Models with an expert that is not served as its own content, bit by bit."""
    found: set[str] = set()
    for layer, choices in zip(layers, chosen, strict=True):
        for choice in choices:
            for use in choice.uses:
                kept = layer.contents.kept.get(layer.contents.digests[use.expert])
                exact = SlotChoice.exactly(use.expert, kept)
                if (choice.content, choice.format, use.residual) != (exact.content, DENSE, ()):
                    found |= {user.model for user in layer.contents.users[use.expert]}
    return frozenset(found)


def budget_bytes(budget: float | None, one_model: int, num_models: int) -> int | None:
    """The budget in bytes; None when it asks for no more than sharing what is identical.

    `budget` is expert bytes of the release over those of one model. Raises `Refused` unless it
    is a positive number.
    """
    if budget is None:
        return None
    if not math.isfinite(budget) or budget <= 0:
        raise Refused(f"an expert budget of {budget} is not a positive number")
    return None if budget >= num_models else int(budget * one_model)
