"""Plan for extending a release: its slots stay as they are, models are added to them or removed.

Pure, as `consolidation/plan.py`. A new expert that equals a slot uses it, any other gets a slot
of its own; with a budget the new experts whose nearest slot costs least use that one instead,
until the budget holds. Slots that no model uses any more are left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consolidation.plan import Expert, Layer, Plan, Pool, Slot, bytes_after, fewest_merges, plan_of
from consolidation.release import Manifest


@dataclass(frozen=True, slots=True)
class Nearest:
    """The slot nearest to a new expert, and the square error of using it instead."""

    slot: int
    cost: float


def kept_slots(manifest: Manifest, models: Sequence[str]) -> list[list[int]]:
    """Slots of a release that these of its models use, by layer."""
    return [
        sorted({slot for name in models for slot in manifest.models[name].expert_map[layer]})
        for layer in range(len(manifest.layers))
    ]


def new_experts(manifest: Manifest, layer: int, pool: Pool) -> list[int]:
    """Positions in a pool of the experts that equal no slot of the release."""
    there = {slot.digest for slot in manifest.layers[layer].slots}
    return [i for i, digest in enumerate(pool.digests) if digest not in there]


def extend_plan(
    manifest: Manifest,
    kept: Sequence[str],
    layer_pools: Sequence[Pool],
    nearest: Sequence[Mapping[int, Nearest]] | None,
    *,
    added: Sequence[str],
    square_norm: float,
    allowed: int | None,
) -> Plan:
    """The release's `kept` models and the `added` ones, within `allowed` bytes.

    `nearest` tells, by position in a layer's pool, where a new expert may be put; errors are over
    the added models alone. Raises `Refused` when putting all of them there is not enough.
    """
    order = sorted(
        (near.cost, layer, position)
        for layer, found in enumerate(nearest or ())
        for position, near in found.items()
    )

    def layers_after(count: int) -> tuple[Layer, ...]:
        put: list[dict[int, int]] = [{} for _ in layer_pools]
        for _, layer, position in order[:count]:
            put[layer][position] = (nearest or ())[layer][position].slot
        pools = enumerate(layer_pools)
        return tuple(_layer(manifest, kept, layer, pool, put[layer]) for layer, pool in pools)

    def size_after(count: int) -> int:
        layers = layers_after(count)
        return bytes_after(layers, _maps(layers, models), slot_bytes)

    models = sorted([*kept, *added])
    slot_bytes = manifest.layers[0].slots[0].bytes
    one_model = manifest.expert_bytes_one_model
    reason = "keeping the slots of the release"
    count = fewest_merges(len(order), allowed, size_after, one_model=one_model, reason=reason)
    layers = layers_after(count)
    return plan_of(
        layers,
        _maps(layers, models),
        slot_bytes=slot_bytes,
        one_model=one_model,
        allowed=allowed,
        square_error=math.fsum(cost for cost, _, _ in order[:count]),
        square_norm=square_norm,
    )


def _layer(
    manifest: Manifest, kept: Sequence[str], layer: int, pool: Pool, put: Mapping[int, int]
) -> Layer:
    """Slots of one layer: those of the release that are used, in their order, then new ones."""
    old = manifest.layers[layer]
    users: list[list[Expert]] = [[] for _ in old.slots]
    for name in kept:
        for index, slot in enumerate(manifest.models[name].expert_map[layer]):
            users[slot].append(Expert(name, index))
    near: list[list[Expert]] = [[] for _ in old.slots]
    position_of = {slot.digest: position for position, slot in enumerate(old.slots)}
    fresh = []
    for position, digest in enumerate(pool.digests):
        mine = pool.users[position]
        place = position_of.get(digest, put.get(position))
        if place is None:
            fresh.append(Slot(mine, ((mine[0], len(mine)),), digest))
        else:
            users[place] += mine
            if digest not in position_of:
                near[place] += mine
    stay = [
        Slot(tuple(found), (), old.slots[slot].digest, tuple(near[slot]), kept=True)
        for slot, found in enumerate(users)
        if found
    ]
    return Layer(old.module, (*stay, *fresh))


def _maps(layers: Sequence[Layer], models: Sequence[str]) -> dict[str, tuple[tuple[int, ...], ...]]:
    return {name: tuple(_row(layer, name) for layer in layers) for name in models}


def _row(layer: Layer, model: str) -> tuple[int, ...]:
    mine = [
        (user.index, position)
        for position, slot in enumerate(layer.slots)
        for user in slot.users
        if user.model == model
    ]
    return tuple(position for _, position in sorted(mine))
