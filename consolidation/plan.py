"""Plan: what every expert of a release will be, within a byte budget. Pure: values in, one out.

Identical experts always share. What else is worth its bytes was found layer by layer
(`consolidation/compare.py`); here one budget is spent over all layers, by error saved per byte.
A release that is extended keeps its slots and residuals; new models may use its slots.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from consolidation.errors import Refused
from consolidation.frontier import spend
from consolidation.groups import BASE, KEPT, Choices, Group, SlotChoice
from consolidation.menu import Sizes
from consolidation.pool import Expert, Order, Pool
from consolidation.release import Manifest, expert_map_bytes, residual_map_bytes
from representation.formats import DENSE, Format

Maps = Mapping[str, tuple[tuple[int, ...], ...]]
ResidualMaps = Mapping[str, tuple[tuple[tuple[int, ...], ...], ...]]


@dataclass(frozen=True, slots=True)
class Held:
    """An expert that a slot holds, or has in its mean `count` times. `model` is None for base's.

    Without an order its neurons are taken as they lie.
    """

    model: str | None
    index: int
    count: int = 1
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """Experts of one content that use a slot, and the formats of the residuals they share."""

    users: tuple[Expert, ...]
    residuals: tuple[Format, ...] = ()
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot that is to be built. `digest` is its blob's where that is known beforehand."""

    holds: tuple[Held, ...]
    format: Format
    members: tuple[Member, ...]
    digest: str | None


@dataclass(frozen=True, slots=True)
class KeptSlot:
    """A slot of the release that is extended, by its index there, and who comes to use it."""

    index: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what is kept of a release that is extended, then what is built.

    Residuals come in the same order: kept ones, then those of members, slot by slot.
    """

    module: str
    kept: tuple[KeptSlot, ...]
    slots: tuple[Slot, ...]
    kept_residuals: tuple[int, ...] = ()

    @property
    def num_slots(self) -> int:
        return len(self.kept) + len(self.slots)

    @property
    def members(self) -> list[tuple[int, Member]]:
        """All new members, with the slot of each."""
        shared = [(i, member) for i, slot in enumerate(self.kept) for member in slot.members]
        first = len(self.kept)
        built = enumerate(self.slots, start=first)
        return shared + [(i, member) for i, slot in built for member in slot.members]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a release's experts will be. Bytes are those of files and maps.

    `error` is what is expected of all new models together, in nats per token or, where nothing was
    calibrated, in squares of weights. `predicted_kl` is by new model, and None in that case;
    `relative_error` is the root of squared weight errors over that of squared weights, and None
    where something was. `approximated` are the new models that do not get back just what they had.
    """

    models: tuple[str, ...]
    layers: tuple[Layer, ...]
    expert_map: Maps
    residual_map: ResidualMaps
    expert_bytes_before: int
    expert_bytes_after: int
    expert_bytes_one_model: int
    budget_bytes: int | None
    approximated: frozenset[str]
    error: float
    predicted_kl: Mapping[str, float] | None
    relative_error: float | None

    @property
    def num_experts(self) -> int:
        """Experts of all models."""
        return sum(len(row) for rows in self.expert_map.values() for row in rows)

    @property
    def num_slots(self) -> int:
        """Slots of all layers."""
        return sum(layer.num_slots for layer in self.layers)

    def residuals(self, model: str, layer: int, index: int) -> tuple[int, ...]:
        """Residuals of one expert, by their index in the layer."""
        rows = self.residual_map[model]
        return rows[layer][index] if rows else ()

    def formats(self) -> dict[str, int]:
        """How many experts of new models are what: a slot's format and those of residuals."""
        found: dict[str, int] = {}
        for layer in self.layers:
            for slot, member in layer.members:
                built = slot - len(layer.kept)
                first = "kept" if built < 0 else str(layer.slots[built].format)
                label = " + ".join([first, *map(str, member.residuals)])
                found[label] = found.get(label, 0) + len(member.users)
        return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class LayerChoices:
    """A layer's distinct experts, and what may be done with them. No groups: nothing is merged."""

    pool: Pool
    sizes: Sizes
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
class Asked:
    """What a plan must keep to. `allowed` bytes: None merges only what is identical.

    `responses` tell, by model, the divergence that an error is expected to cause; None where
    nothing was calibrated, and errors are squares of weights.
    """

    models: tuple[str, ...]
    one_model: int
    allowed: int | None
    responses: Mapping[str, Callable[[float], float]] | None
    square_norm: float


def make_plan(layers: Sequence[LayerChoices], asked: Asked, extended: Extended | None) -> Plan:
    """The plan with the least error within the bytes allowed.

    Raises `Refused`, with the smallest possible budget, when nothing keeps within them.
    """
    frontiers = [group.points for layer in layers for group in layer.groups or ()]

    def plan(choices: Sequence[Choices]) -> Plan:
        return _chosen_plan(layers, choices, asked, extended)

    if asked.allowed is None:
        return plan([group[-1].choice for group in frontiers])
    most = plan([group[-1].choice for group in frontiers])
    if most.expert_bytes_after <= asked.allowed:
        return most
    spent = spend(frontiers, asked.allowed, lambda choices: plan(choices).expert_bytes_after)
    if spent is None:
        needed = plan([group[0].choice for group in frontiers]).expert_bytes_after
        least = math.ceil(needed / asked.one_model * 10000) / 10000
        raise Refused(
            f"an expert budget of {asked.allowed / asked.one_model:.4f} ({asked.allowed} bytes) "
            f"cannot be met: the fewest bits for every expert need {needed} bytes, a budget of "
            f"{least:.4f}"
        )
    return plan(spent)


def _chosen_plan(
    layers: Sequence[LayerChoices],
    choices: Sequence[Choices],
    asked: Asked,
    extended: Extended | None,
) -> Plan:
    """The plan of one choice for every group, in order of layers and groups."""
    rest = iter(choices)
    chosen = [
        [slot for _ in layer.groups or () for slot in next(rest)] + _same_experts(layer)
        for layer in layers
    ]
    return _plan(layers, chosen, asked, extended)


def fewest_bytes(layers: Sequence[LayerChoices], asked: Asked, extended: Extended | None) -> int:
    """Bytes of the plan that takes the fewest."""
    smallest = [group.points[0].choice for layer in layers for group in layer.groups or ()]
    return _chosen_plan(layers, smallest, asked, extended).expert_bytes_after


def _same_experts(layer: LayerChoices) -> list[SlotChoice]:
    """Choices for the experts of a layer that no group has: each content gets a slot as it is."""
    grouped = {member for group in layer.groups or () for member in group.members}
    return [
        SlotChoice.exactly(position, layer.pool.kept.get(digest))
        for position, digest in enumerate(layer.pool.digests)
        if position not in grouped
    ]


def _plan(
    layers: Sequence[LayerChoices],
    chosen: Sequence[Sequence[SlotChoice]],
    asked: Asked,
    extended: Extended | None,
) -> Plan:
    made = [
        _layer(number, layer, choices, extended)
        for number, (layer, choices) in enumerate(zip(layers, chosen, strict=True))
    ]
    expert_map, residual_map = _maps(made, asked.models, extended)
    errors = _errors(layers, chosen)
    new = {user.model for layer in layers for users in layer.pool.users for user in users}
    predicted = None
    if asked.responses is not None:
        predicted = {name: asked.responses[name](errors.get(name, 0.0)) for name in sorted(new)}
    return Plan(
        models=asked.models,
        layers=tuple(made),
        expert_map=expert_map,
        residual_map=residual_map,
        expert_bytes_before=asked.one_model * len(asked.models),
        expert_bytes_after=_bytes_after(layers, made, extended)
        + sum(expert_map_bytes(rows) for rows in expert_map.values())
        + sum(residual_map_bytes(rows) for rows in residual_map.values()),
        expert_bytes_one_model=asked.one_model,
        budget_bytes=asked.allowed,
        approximated=_approximated(layers, chosen),
        error=math.fsum((predicted or errors).values()),
        predicted_kl=predicted,
        relative_error=None if predicted else _root(math.fsum(errors.values()), asked.square_norm),
    )


def _root(square_error: float, square_norm: float) -> float:
    return math.sqrt(square_error / square_norm) if square_norm else 0.0


def _layer(
    number: int, layer: LayerChoices, choices: Sequence[SlotChoice], extended: Extended | None
) -> Layer:
    pool = layer.pool
    orders: dict[int, Order] = {}
    for group in layer.groups or ():
        reference = pool.users[group.members[0]][0]
        for member, via in group.via.items():
            orders[member] = Order(pool.users[via][0], reference)

    def members(choice: SlotChoice) -> tuple[Member, ...]:
        return tuple(
            Member(pool.users[use.expert], use.residual, orders.get(use.expert))
            for use in choice.uses
        )

    def held(position: int) -> Held:
        users = pool.users[position]
        return Held(users[0].model, users[0].index, len(users), orders.get(position))

    built, shared = [], dict[int, tuple[Member, ...]]()
    for choice in sorted(choices, key=lambda choice: choice.uses[0].expert):
        kind, positions = choice.content.kind, choice.content.positions
        if kind == KEPT:
            shared[positions[0]] = shared.get(positions[0], ()) + members(choice)
            continue
        holds = (Held(None, positions[0]),) if kind == BASE else tuple(map(held, positions))
        as_it_is = kind != BASE and len(holds) == 1 and choice.format == DENSE
        digest = pool.digests[positions[0]] if as_it_is and holds[0].order is None else None
        built.append(Slot(holds, choice.format, members(choice), digest))
    kept = sorted({*(extended.slots(number) if extended else ()), *shared})
    return Layer(
        module=pool.module,
        kept=tuple(KeptSlot(index, shared.get(index, ())) for index in kept),
        slots=tuple(built),
        kept_residuals=tuple(extended.residuals(number)) if extended else (),
    )


def _maps(
    layers: Sequence[Layer], models: Sequence[str], extended: Extended | None
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
    choices: Sequence[LayerChoices], layers: Sequence[Layer], extended: Extended | None
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
                kept = layer.pool.kept.get(layer.pool.digests[use.expert])
                exact = SlotChoice.exactly(use.expert, kept)
                if (choice.content, choice.format, use.residual) != (exact.content, DENSE, ()):
                    found |= {user.model for user in layer.pool.users[use.expert]}
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
