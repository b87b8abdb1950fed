"""Plan: which experts share a slot, within a byte budget. Pure: numbers in, one value out.

Identical experts always share. Beyond that the merges of all layers' trees are applied in order
of cost, wherever they are, until the budget holds. Extending a release keeps its slots and has
its own rule, in `consolidation/extend.py`.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from consolidation.compare import Merge
from consolidation.errors import Refused
from consolidation.release import expert_map_bytes
from consolidation.scan import LayerScan


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert of one model, at a layer that the context gives."""

    model: str
    index: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: who uses it, and the blob's digest where it is known before it is built.

    `distinct` names one expert for each different content, with how many experts have it. A slot
    with a digest holds exactly that content; one without holds the mean of its members.
    `approximates` are the users whose own content is not what the slot holds. A slot that is
    `kept` of an extended release is not built, and has no `distinct`.
    """

    users: tuple[Expert, ...]
    distinct: tuple[tuple[Expert, int], ...]
    digest: str | None
    approximates: tuple[Expert, ...] = ()
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """Slots of one layer, by slot index."""

    module: str
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a release's experts will be. Bytes are those of files and maps.

    `square_error` is the sum of squared weight errors over all experts, `relative_error` its root
    over that of the sum of squares of all weights. `budget_bytes` is None when nothing had to be
    merged for it.
    """

    models: tuple[str, ...]
    layers: tuple[Layer, ...]
    expert_map: Mapping[str, tuple[tuple[int, ...], ...]]
    slot_bytes: int
    expert_bytes_before: int
    expert_bytes_after: int
    expert_bytes_one_model: int
    budget_bytes: int | None
    square_error: float
    relative_error: float

    @property
    def num_experts(self) -> int:
        """Experts of all models."""
        return sum(len(row) for rows in self.expert_map.values() for row in rows)

    @property
    def merged_models(self) -> frozenset[str]:
        """Models that use a slot with another content than their own expert's."""
        shared = [slot for layer in self.layers for slot in layer.slots if slot.approximates]
        return frozenset(user.model for slot in shared for user in slot.approximates)

    @property
    def num_slots(self) -> int:
        """Slots of all layers."""
        return sum(len(layer.slots) for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Pool:
    """Distinct experts of one layer, in order of first appearance: what slots are made of."""

    module: str
    digests: tuple[str, ...]
    users: tuple[tuple[Expert, ...], ...]

    @property
    def counts(self) -> list[int]:
        """How many experts have each content."""
        return [len(users) for users in self.users]


def pools(modules: Sequence[str], scans: Mapping[str, Sequence[LayerScan]]) -> list[Pool]:
    """Distinct experts of each layer; models in the mapping's order, then by index."""
    found = []
    for layer, module in enumerate(modules):
        users: dict[str, list[Expert]] = {}
        for model, layers in scans.items():
            for index, digest in enumerate(layers[layer].digests):
                users.setdefault(digest, []).append(Expert(model, index))
        found.append(Pool(module, tuple(users), tuple(tuple(u) for u in users.values())))
    return found


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


def fewest_merges(
    most: int,
    allowed: int | None,
    size_after: Callable[[int], int],
    *,
    one_model: int,
    reason: str,
) -> int:
    """How many merges it takes to keep within `allowed` bytes; none when that is None.

    `size_after` tells the bytes after so many merges and never grows. Raises `Refused`, with the
    smallest possible budget and the `reason` for it, when even `most` merges are not enough.
    """
    if allowed is None:
        return 0
    needed = size_after(most)
    if needed > allowed:
        least = math.ceil(needed / one_model * 10000) / 10000
        raise Refused(
            f"an expert budget of {allowed / one_model:.4f} ({allowed} bytes) cannot be met: "
            f"{reason} needs {needed} bytes, a budget of {least:.4f}"
        )
    return bisect_left(range(most), True, key=lambda count: size_after(count) <= allowed)


def make_plan(
    layer_pools: Sequence[Pool],
    trees: Sequence[Sequence[Merge]] | None,
    *,
    models: Sequence[str],
    slot_bytes: int,
    one_model: int,
    square_norm: float,
    allowed: int | None,
) -> Plan:
    """The cheapest merges that keep within `allowed` bytes; with None, only identical ones.

    `trees` has one tree per layer and may be None when nothing is to be merged. Raises `Refused`,
    with the smallest possible budget, when even one slot per layer is too much.
    """
    merges = sorted(
        (merge.cost, layer, position)
        for layer, tree in enumerate(trees or ())
        for position, merge in enumerate(tree)
    )

    def size_after(count: int) -> int:
        clusters = _clusters(layer_pools, trees or (), merges[:count])
        maps = _maps(layer_pools, clusters, models)
        # Blobs that layers have in common are not subtracted: the budget holds all the more.
        size = sum(len(layer) for layer in clusters) * slot_bytes
        return size + sum(expert_map_bytes(rows) for rows in maps.values())

    reason = "one slot in each layer"
    count = fewest_merges(len(merges), allowed, size_after, one_model=one_model, reason=reason)
    clusters = _clusters(layer_pools, trees or (), merges[:count])
    layers = tuple(
        Layer(pool.module, tuple(_slot(pool, members) for members in found))
        for pool, found in zip(layer_pools, clusters, strict=True)
    )
    return plan_of(
        layers,
        _maps(layer_pools, clusters, models),
        slot_bytes=slot_bytes,
        one_model=one_model,
        allowed=allowed,
        square_error=math.fsum(cost for cost, _, _ in merges[:count]),
        square_norm=square_norm,
    )


def _clusters(
    layer_pools: Sequence[Pool],
    trees: Sequence[Sequence[Merge]],
    applied: Sequence[tuple[float, int, int]],
) -> list[list[list[int]]]:
    """Distinct experts by slot, layer by layer; slots in order of their first expert."""
    nodes = [{i: [i] for i in range(len(pool.digests))} for pool in layer_pools]
    for _, layer, position in applied:
        merge = trees[layer][position]
        joined = nodes[layer].pop(merge.one) + nodes[layer].pop(merge.other)
        nodes[layer][len(layer_pools[layer].digests) + position] = sorted(joined)
    return [sorted(layer.values()) for layer in nodes]


def _maps(
    layer_pools: Sequence[Pool], clusters: Sequence[list[list[int]]], models: Sequence[str]
) -> dict[str, tuple[tuple[int, ...], ...]]:
    rows: dict[str, list[tuple[int, ...]]] = {model: [] for model in models}
    for pool, layer in zip(layer_pools, clusters, strict=True):
        slots = {
            user: slot
            for slot, members in enumerate(layer)
            for member in members
            for user in pool.users[member]
        }
        for model in models:
            mine = sorted((u.index, slot) for u, slot in slots.items() if u.model == model)
            rows[model].append(tuple(slot for _, slot in mine))
    return {model: tuple(found) for model, found in rows.items()}


def plan_of(
    layers: tuple[Layer, ...],
    maps: Mapping[str, tuple[tuple[int, ...], ...]],
    *,
    slot_bytes: int,
    one_model: int,
    allowed: int | None,
    square_error: float,
    square_norm: float,
) -> Plan:
    """The plan with these slots, and maps of all models in their order."""
    return Plan(
        models=tuple(maps),
        layers=layers,
        expert_map=maps,
        slot_bytes=slot_bytes,
        expert_bytes_before=one_model * len(maps),
        expert_bytes_after=bytes_after(layers, maps, slot_bytes),
        expert_bytes_one_model=one_model,
        budget_bytes=allowed,
        square_error=square_error,
        relative_error=math.sqrt(square_error / square_norm) if square_norm else 0.0,
    )


def bytes_after(
    layers: Sequence[Layer], maps: Mapping[str, Sequence[Sequence[int]]], slot_bytes: int
) -> int:
    """Expert bytes of a release with these slots, as far as digests are known before building."""
    slots = [slot.digest for layer in layers for slot in layer.slots]
    known = {digest for digest in slots if digest is not None}
    num_files = len(known) + slots.count(None)
    return num_files * slot_bytes + sum(expert_map_bytes(rows) for rows in maps.values())


def _slot(pool: Pool, members: Sequence[int]) -> Slot:
    users = tuple(user for member in members for user in pool.users[member])
    alone = len(members) == 1
    return Slot(
        users=users,
        distinct=tuple((pool.users[m][0], len(pool.users[m])) for m in members),
        digest=pool.digests[members[0]] if alone else None,
        approximates=() if alone else users,
    )
