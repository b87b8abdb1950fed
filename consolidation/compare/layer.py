"""Compare: the ways to serve the experts of a layer, as frontiers of bytes and error.

One task for a layer, or for a part of it. Experts of one origin (`origins.py`) form a group, and a
tree of the closest (Ward, 1963) says which of them may share a slot: each node is either one slot
or what its halves are. Contents of a slot are tried: the base's expert, each member's own, their
mean.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from consolidation.arithmetic.alignment import match, reorder, reorder_metric
from consolidation.arithmetic.factors import Factors
from consolidation.arithmetic.frontier import Point
from consolidation.arithmetic.metric import Metric, together, weight_metric
from consolidation.arithmetic.on_device import CPU, same_sums
from consolidation.arithmetic.weights import Weights, mean_weights, weights_of
from consolidation.checkpoints.checkpoint import ExpertsSource
from consolidation.checkpoints.contents import User
from consolidation.compare.costs import Difference
from consolidation.compare.groups import BASE, EXPERTS, KEPT, Choices, Content, Group
from consolidation.compare.kin import Kin, branches, related
from consolidation.compare.menu import SLOT_FORMATS, FileSizes, Pair
from consolidation.compare.noise import (
    Noise,
    Powers,
    Unit,
    loss_shares,
    measure_noise,
    powers_of,
    unit_of,
)
from consolidation.compare.ways import GroupWays, Node, Way, few_formats
from consolidation.release import Part, Registry, read_expert
from consolidation.statistics.stored import StatisticsStore
from representation.formats import DENSE

CACHED = 2
"""Experts that are kept when they were read, beside those of a group: one is seen from another."""
MAX_CONTENTS = 8
"""The most members whose own expert is tried as the content of a slot."""


@dataclass(frozen=True, slots=True)
class Distinct:
    """A distinct expert: where to read it, who has it, and the kept slots that may replace it.

    digest: of what a slot of its own would hold.   unadapted: of what it is without its adapter.
    """

    source: ExpertsSource
    index: int
    users: tuple[User, ...]
    digest: str
    unadapted: str | None = None
    locked: bool = False
    kept: tuple[int, ...] = ()

    def read(self, device: torch.device) -> Weights:
        """The weights, for computing."""
        return weights_of(self.source.read_wide(self.index), self.source.shape, device)


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Distinct experts of one layer, and the slots of a release that is extended.

    base_digests: of the base's experts, as digests of the models' are.   kin: who has one origin.
    statistics: of the models; None compares weights.   max_formats: that the layer may have; None:
    any number.   device: that computes.
    """

    layer: int
    experts: tuple[Distinct, ...]
    base: ExpertsSource | None
    base_digests: tuple[str, ...]
    statistics: StatisticsStore | None
    dtype: torch.dtype
    slots: tuple[Part, ...] = ()
    registry: str = ""
    family: str = ""
    max_formats: int | None = None
    device: torch.device = CPU
    kin: tuple[Kin, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of the experts, as read."""
        return sum(e.source.num_bytes // e.source.num_experts for e in self.experts)


def compare_layer(task: CompareTask) -> list[dict[str, Any]]:
    """A group for each of the task's kin, as JSON values of `Group`."""
    with same_sums(task.device):
        return [group.to_json() for group in _Comparison(task).groups()]


class _Comparison:
    """One layer while it is compared."""

    def __init__(self, task: CompareTask) -> None:
        self._task = task
        self._shape = task.experts[0].source.shape
        self._layout = task.experts[0].source.layout
        self._sizes = FileSizes(self._shape, task.dtype)
        self._is_lossless = all(expert.locked for expert in task.experts)
        self._shares: dict[int, dict[str, float]] = {}
        self._read = lru_cache(CACHED)(lambda position: task.experts[position].read(task.device))

    def groups(self) -> Iterator[Group]:
        noise = Noise({})
        if not self._is_lossless:
            positions = range(len(self._task.experts))
            noise = measure_noise(self._unit(position, None) for position in positions)
        found, limit = self._task.kin, self._task.max_formats
        if limit is None:
            for kin in found:
                yield self._group(kin, self._ways(kin, noise).frontier())
            return
        ways = [self._ways(kin, noise) for kin in found]
        sets = few_formats(ways, limit)
        for kin, own in zip(found, ways, strict=True):
            points = [*own.frontier(), *(p for formats in sets for p in own.frontier(formats))]
            yield self._group(kin, tuple({point.choice: point for point in points}.values()))

    def _group(self, kin: Kin, points: tuple[Point[Choices], ...]) -> Group:
        shares = tuple(self._shares[member] for member in kin.members)
        return Group(kin.members, kin.via, shares, points)

    def _ways(self, kin: Kin, noise: Noise) -> GroupWays:
        reference = self._read(kin.members[0])
        orders = {
            member: match(reference, self._read(via), self._layout)
            for member, via in kin.via.items()
            if self._layout is not None
        }
        units = [self._unit(member, orders.get(member)) for member in kin.members]
        others = self._others(kin, units)
        stored, adapted = self._stored(kin, others), self._adapted(kin, others)
        menu = _GroupMenu(kin, units, others, stored, adapted, noise, self._sizes)
        nodes = branches([u.weights for u in units], [u.count for u in units])
        return GroupWays(tuple(Node(tuple(menu.as_one_slot(n.members)), n.halves) for n in nodes))

    def _unit(self, position: int, order: torch.Tensor | None) -> Unit:
        """Also finds its shares, so that its statistics are read only once."""
        expert = self._task.experts[position]
        by_user = [self._metrics(user) for user in expert.users]
        self._shares[position] = loss_shares(expert.users, by_user)
        weights = self._read(position)
        counts = [user.weight for user in expert.users]
        metrics = {n: together([own[n] for own in by_user], counts) for n in by_user[0]}
        if order is not None and self._layout is not None:
            layout = self._layout
            weights = reorder(weights, order, layout)
            metrics = {n: reorder_metric(n, found, order, layout) for n, found in metrics.items()}
        return unit_of(weights, metrics, count=len(expert.users), locked=expert.locked)

    def _metrics(self, user: User) -> dict[str, Metric]:
        """By matrix; none where nothing may be lost, as nothing is weighed there."""
        store, shape, device = self._task.statistics, self._shape, self._task.device
        if self._is_lossless:
            return {}
        if store is None:
            return {n: weight_metric(shape.matrix(n), device) for n in shape.matrices}
        layer = self._task.layer
        return {n: store.metric(user.model, layer, user.index, n, device) for n in shape.matrices}

    def _others(self, kin: Kin, units: Sequence[Unit]) -> dict[Content, Weights]:
        """Other contents of a slot than its members: the base's expert, slots that are kept."""
        found: dict[Content, Weights] = {}
        device = self._task.device
        first = self._task.experts[kin.members[0]]
        if self._task.base is not None:
            tensors = self._task.base.read(first.index)
            found[Content(BASE, (first.index,))] = weights_of(tensors, self._shape, device)
        for slot in sorted({s for m in kin.members for s in self._task.experts[m].kept}):
            registry = Registry(self._task.registry, self._task.family)
            whole = read_expert(registry, self._kept(slot), self._shape, device)
            found[Content(KEPT, (slot,))] = weights_of(whole, self._shape, device)
        reference = units[0].weights
        return {content: w for content, w in found.items() if related(reference, w)}

    def _kept(self, slot: int) -> list[Part]:
        """The parts of a slot of the release that is extended."""
        first = self._task.slots[slot]
        return [first, *(self._task.slots[index] for index in first.others)]

    def _stored(self, kin: Kin, others: Mapping[Content, Weights]) -> frozenset[Content]:
        """Contents that a dense slot would hold to the bit, every neuron in its own place."""
        found = {
            Content(EXPERTS, (member,))
            for member in kin.members
            # What an adapter adds is rounded where it is stored.
            if member not in kin.via and self._task.experts[member].unadapted is None
        }
        for content, weights in others.items():
            if content.kind == KEPT:
                parts = self._kept(content.positions[0])
                stored = len(parts) == 1 and parts[0].parsed == DENSE
            else:  # A base may be stored in more bits than its models.
                stored = weights.equals(weights.rounded(self._task.dtype))
            if stored:
                found.add(content)
        return frozenset(found)

    def _adapted(self, kin: Kin, others: Collection[Content]) -> dict[int, "_Adapted"]:
        """By position in the group, experts whose adapter adds to a content that may be tried."""
        digests = {
            BASE: self._task.base_digests,
            EXPERTS: [one.digest for one in self._task.experts],
            KEPT: [slot.digest for slot in self._task.slots],
        }
        contents = [*others, *(Content(EXPERTS, (member,)) for member in kin.members)]
        found = {}
        for place, member in enumerate(kin.members):
            expert = self._task.experts[member]
            if expert.unadapted is not None and member not in kin.via:
                same = (c for c in contents if digests[c.kind][c.positions[0]] == expert.unadapted)
                found[place] = _Adapted(expert, frozenset(same), self._task.device)
        return found


@dataclass(frozen=True, slots=True)
class _Adapted:
    """An expert with an adapter, and the contents that hold what its adapter adds to."""

    expert: Distinct
    bases: frozenset[Content]
    device: torch.device

    def added_to(self, content: Content) -> dict[str, Factors]:
        """By matrix, what the adapter adds to a content; empty if it adds to another."""
        if content not in self.bases:
            return {}
        found = self.expert.source.factors(self.expert.index)
        return {name: factors.on(self.device) for name, factors in found.items()}


class _GroupMenu:
    """What it takes and costs to serve units of a group by one slot."""

    def __init__(
        self,
        kin: Kin,
        units: Sequence[Unit],
        others: Mapping[Content, Weights],
        stored: frozenset[Content],
        adapted: Mapping[int, _Adapted],
        noise: Noise,
        sizes: FileSizes,
    ) -> None:
        self._kin = kin
        self._units = units
        self._others = others
        self._stored = stored
        self._adapted = adapted
        self._is_lossless = all(unit.locked for unit in units)
        self._noise = noise
        self._sizes = sizes
        self._pairs: dict[tuple[int, Content], Pair] = {}
        self._differences: dict[tuple[int, Content], Difference] = {}
        self._powers: dict[Content, Powers] = {}

    def as_one_slot(self, members: Sequence[int]) -> Iterator[Way]:
        """Every way to serve these units by one slot that is tried."""
        there = {*self._others, *map(self._own, members)}
        # Adapters of one base are nearer to it than to each other.
        on_base = {m for m, one in self._adapted.items() if one.bases & there}
        apart = [m for m in members if len(members) == 1 or m not in on_base]
        contents = {self._own(m): m for m in apart[:MAX_CONTENTS]}
        for content, member in contents.items():
            yield self._with(content, self._units[member].weights, members)
        for content, weights in self._others.items():
            if len(members) > 1 or content.kind == KEPT:
                yield self._with(content, weights, members)
        if len(members) > 1 and not self._is_lossless:
            units = [self._units[m] for m in members]
            mean = mean_weights([u.weights for u in units], [u.count for u in units])
            content = Content(EXPERTS, tuple(self._kin.members[m] for m in members))
            yield self._with(content, mean, members)

    def _with(self, content: Content, weights: Weights, members: Sequence[int]) -> Way:
        pairs = [self._pair(member, content, weights) for member in members]
        only_dense = content.kind == KEPT or self._is_lossless
        formats = (DENSE,) if only_dense else SLOT_FORMATS
        return Way(
            content,
            tuple(self._kin.members[member] for member in members),
            {
                fmt: tuple(pair.options(fmt, self._noise, self._sizes) for pair in pairs)
                for fmt in formats
            },
            self._sizes,
        )

    def _pair(self, member: int, content: Content, weights: Weights) -> Pair:
        if (member, content) not in self._pairs:
            if content not in self._powers:
                self._powers[content] = {} if self._is_lossless else powers_of(weights)
            difference = self._difference(member, content, weights)
            self._pairs[member, content] = Pair(difference, self._powers[content])
        return self._pairs[member, content]

    def _difference(self, member: int, content: Content, weights: Weights) -> Difference:
        if content.kind == EXPERTS and len(content.positions) == 2:
            # A mean of two lies on the way to the other.
            members = [self._kin.members.index(position) for position in content.positions]
            (other,) = [one for one in members if one != member]
            counts = self._units[member].count, self._units[other].count
            whole = self._between(member, self._own(other), self._units[other].weights)
            return whole.toward(weights, counts[1] / sum(counts))
        return self._between(member, content, weights)

    def _between(self, member: int, content: Content, weights: Weights) -> Difference:
        if (member, content) not in self._differences:
            is_stored = {self._own(member), content} <= self._stored
            adapted = self._adapted.get(member)
            factors = adapted.added_to(content) if adapted is not None else {}
            unit = self._units[member]
            found = Difference.between(unit, weights, is_stored=is_stored, factors=factors)
            if len(content.positions) > 1:
                return found  # Another mean: its weights are not to stay in memory.
            self._differences[member, content] = found
        return self._differences[member, content]

    def _own(self, member: int) -> Content:
        return Content(EXPERTS, (self._kin.members[member],))
