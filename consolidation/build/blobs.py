"""Build: writes slots, residuals and backbones as blobs. Decides nothing; returns their digests.

A slot that holds one unchanged expert has its exact bytes. Any other content is rounded to the
slot's format. A residual is then made of the difference to what the slot really gives, so it also
makes up for the rounding of the slot.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.arithmetic.alignment import match, reorder, reorder_metric
from consolidation.arithmetic.metric import Metric, together, weight_metric
from consolidation.arithmetic.on_device import CPU, same_sums, to_device
from consolidation.arithmetic.weights import Weights, mean_weights, weights_of
from consolidation.checkpoints.checkpoint import BackboneSource, ExpertsSource
from consolidation.checkpoints.contents import User
from consolidation.compare.costs import PartWanted, cost_of
from consolidation.compare.part_form import PartForm, PartForms
from consolidation.errors import RunFailed
from consolidation.release import Blob, Part, Registry, read_expert
from consolidation.release.tensors import encode_tensors
from consolidation.statistics.stored import StatisticsStore
from representation.formats import ExpertShape, Format, LowRank, dense_expert


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an expert is read. Matching `via` with `reference` gives the order of its neurons."""

    source: ExpertsSource
    index: int
    via: "Origin | None" = None
    reference: "Origin | None" = None

    def read(self, order: torch.Tensor | None, device: torch.device) -> Weights:
        """Its weights, with its neurons in the order that `order` gives."""
        weights, layout = self._own(device), self.source.layout
        return weights if order is None or layout is None else reorder(weights, order, layout)

    def order(self, device: torch.device) -> torch.Tensor | None:
        """The new order of its neurons; None keeps the old. Reads and matches two experts."""
        if self.via is None or self.reference is None or self.source.layout is None:
            return None
        return match(self.reference._own(device), self.via._own(device), self.source.layout)

    def _own(self, device: torch.device) -> Weights:
        return weights_of(self.source.read_wide(self.index), self.source.shape, device)


@dataclass(frozen=True, slots=True)
class MemberRequest:
    """Experts of one content that use a slot, and the residuals that they need.

    by_adapter: whether those are the factors that their adapter adds to what the slot holds.
    """

    origin: Origin
    users: tuple[User, ...]
    residuals: PartForms
    by_adapter: bool = False


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """One slot to write, with its members' residuals.

    `holds` is the expert that it holds, or those whose mean it holds, each with its count. `forms`
    are those of its parts. `digest` is that of the only one, where it is known beforehand, and
    `num_bytes` what that takes. A slot of which parts are `kept` is only read.
    """

    holds: tuple[tuple[Origin, int], ...]
    forms: PartForms
    members: tuple[MemberRequest, ...]
    digest: str | None
    num_bytes: int
    kept: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildTask:
    """All slots to write for one layer, in order. device: that computes."""

    registry: str
    family: str
    layer: int
    shape: ExpertShape
    dtype: torch.dtype
    statistics: StatisticsStore | None
    slots: tuple[SlotRequest, ...]
    device: torch.device = CPU


@dataclass(frozen=True, slots=True)
class BackboneTask:
    """One blob of one model's backbone."""

    registry: str
    family: str
    source: BackboneSource
    dtype: torch.dtype


def build_layer(task: BuildTask) -> list[dict[str, Any]]:
    """Write missing slots and residuals. -> each slot's parts and its members' parts

    Raises `RunFailed` when a checkpoint has changed meanwhile.
    """
    builder = _Builder(task)
    with same_sums(task.device):
        return [builder.slot(request) for request in task.slots]


def build_backbone(task: BackboneTask) -> dict[str, Any]:
    """Write one blob of a backbone."""
    registry = Registry(task.registry, task.family)
    return registry.write_backbone(task.source.read(), task.dtype).model_dump()


class _Builder:
    """Writes the parts of one layer, one slot at a time."""

    def __init__(self, task: BuildTask) -> None:
        self._task = task
        self._device = task.device
        self._registry = Registry(task.registry, task.family)

    def slot(self, request: SlotRequest) -> dict[str, Any]:
        if request.digest is not None and not any(m.residuals for m in request.members):
            return {"slot": [self._exact(request).model_dump()], "residuals": []}
        shape = self._task.shape
        if request.kept:
            parts = request.kept
            held = read_expert(self._registry, parts, shape, self._device)
            given = weights_of(held, shape, self._device)
        else:
            content = self._content(request)
            parts, given = self._slot_parts(request, content, shape)
        residuals = [
            [one.model_dump() for one in self._residuals(member, parts, given, shape)]
            for member in request.members
        ]
        return {"slot": [part.model_dump() for part in parts], "residuals": residuals}

    def _exact(self, request: SlotRequest) -> Part:
        """The slot of one unchanged expert, which is read only if the blob is missing."""
        ((origin, _),) = request.holds
        there = Blob(digest=request.digest or "", bytes=request.num_bytes)
        if not self._registry.has_blob(there):
            tensors = origin.source.read(origin.index)
            if self._registry.write_blob(encode_tensors(tensors)) != there:
                raise RunFailed(
                    f"{origin.source.module}, expert {origin.index}: the checkpoint has changed "
                    "since it was scanned"
                )
        return Part(digest=there.digest, bytes=there.bytes)

    def _content(self, request: SlotRequest) -> Weights:
        device = self._device
        experts = [origin.read(origin.order(device), device) for origin, _ in request.holds]
        if len(experts) == 1:
            return experts[0]
        return mean_weights(experts, [count for _, count in request.holds])

    def _slot_parts(
        self, request: SlotRequest, content: Weights, shape: ExpertShape
    ) -> tuple[tuple[Part, ...], Weights]:
        """Write the slot of some content. -> its parts, and the weights that they really give"""
        if request.digest is not None:
            return (self._exact(request),), content.rounded(self._task.dtype)

        @functools.cache
        def users() -> list[tuple[MemberRequest, torch.Tensor | None, User]]:
            every = request.members
            ordered = [(member, member.origin.order(self._device)) for member in every]
            return [(member, order, user) for member, order in ordered for user in member.users]

        def metric(name: str) -> Metric:
            # Those without residuals feel every error of the slot, others what is not made up.
            alone = [one for one in users() if not any(r.holds(name) for r in one[0].residuals)]
            own, matrix = alone or users(), content.matrices[name]
            metrics = [self._metric(m, order, user, name, matrix) for m, order, user in own]
            return together(metrics, [user.weight for _, _, user in own])

        vectors = {name: v.to(self._task.dtype) for name, v in content.vectors.items()}
        weights = Weights(content.matrices, vectors)
        tensors = [self._fitted(form, weights, metric, shape) for form in request.forms]
        pairs = zip(request.forms, tensors, strict=True)
        held = dense_expert([(form.format, found) for form, found in pairs], shape)
        given = weights_of(held, shape, self._device)
        return tuple(map(self._write, request.forms, tensors)), given

    def _fitted(
        self,
        form: PartForm,
        weights: Weights,
        metric: Callable[[str], Metric],
        shape: ExpertShape,
    ) -> dict[str, torch.Tensor]:
        """The tensors of a slot's part."""
        own = shape.only(form.matrices)
        wanted = PartWanted(weights.only(form.matrices), metric, own, self._task.dtype)
        return cost_of(form.format.kind).fit(form.format, wanted)

    def _residuals(
        self, member: MemberRequest, slot: Sequence[Part], given: Weights, shape: ExpertShape
    ) -> list[Part]:
        """Parts that add up to a member's difference from the slot, in the better of two orders.

        given: what the slot gives.
        """
        if not member.residuals:
            return []
        if member.residuals[0].format.replaces:
            return [self._replacing(member, slot[0], shape)]
        if member.by_adapter:
            return self._factors(member, shape)
        order = member.origin.order(self._device)
        left = member.origin.read(order, self._device).minus(given)
        tensors: dict[PartForm, dict[str, torch.Tensor]] = {one: {} for one in member.residuals}
        for name, matrix in left.matrices.items():
            own = [one for one in member.residuals if one.holds(name)]
            if not own:
                continue
            metrics = [self._metric(member, order, u, name, matrix) for u in member.users]
            metric = together(metrics, [user.weight for user in member.users])
            parts = self._better(left.only((name,)), metric, [one.format for one in own], shape)
            for one, found in zip(own, parts, strict=True):
                tensors[one] |= found
        return [self._write(one, tensors[one]) for one in member.residuals]

    def _factors(self, member: MemberRequest, shape: ExpertShape) -> list[Part]:
        """Residuals with what an adapter adds, as it is. Biases are added nothing."""
        added = member.origin.source.factors(member.origin.index)
        parts = []
        for one in member.residuals:
            assert isinstance(one.format, LowRank), "an adapter adds matrices of a low rank"
            own = shape.only(one.matrices)
            factors = {name: (added[name].left, added[name].right) for name in own.matrices}
            biases = {name: torch.zeros(own.parameters[name]) for name in own.vectors}
            parts.append(self._write(one, one.format.encode(factors, biases, self._task.dtype)))
        return parts

    def _replacing(self, member: MemberRequest, slot: Part, shape: ExpertShape) -> Part:
        """The residual that gives a member back to the bit where the slot has other weights."""
        (residual,) = member.residuals
        origin, device = member.origin, self._device
        stored = tuple(
            {name: to_device(tensor, device) for name, tensor in tensors.items()}
            for tensors in (origin.source.read(origin.index), self._registry.read_tensors(slot))
        )
        wanted = PartWanted(
            weights=origin.read(None, device),
            metric=lambda name: weight_metric(shape.matrix(name), device),
            shape=shape,
            dtype=self._task.dtype,
            stored=(stored[0], stored[1]),
        )
        tensors = cost_of(residual.format.kind).fit(residual.format, wanted)
        return self._write(residual, tensors).model_copy(update={"on": slot.digest})

    def _better(
        self, left: Weights, metric: Metric, formats: Sequence[Format], shape: ExpertShape
    ) -> list[dict[str, torch.Tensor]]:
        """Tensors in each format that add up to one matrix, made in the better of two orders.

        left: one of an expert's matrices, with its vector
        """
        own = shape.only(left.matrices)
        orders = sorted({tuple(formats), tuple(formats[::-1])})
        tried = [self._approximate(left, metric, order, own) for order in orders]

        def cost(parts: Mapping[Format, Mapping[str, torch.Tensor]]) -> float:
            ((name, rest),) = left.matrices.items()
            for fmt, tensors in parts.items():
                rest = rest - fmt.decode(tensors, name, own)
            return metric.cost(rest)

        best = min(tried, key=cost) if len(tried) > 1 else tried[0]
        return [best[fmt] for fmt in formats]

    def _approximate(
        self, left: Weights, metric: Metric, formats: tuple[Format, ...], shape: ExpertShape
    ) -> dict[Format, dict[str, torch.Tensor]]:
        """Make residuals of one matrix in this order, each of what the earlier ones leave."""
        ((name, rest),) = left.matrices.items()
        vectors = left.vectors
        parts: dict[Format, dict[str, torch.Tensor]] = {}
        for before, fmt in zip((None, *formats), formats, strict=False):
            if before is not None:
                rest = rest - before.decode(parts[before], name, shape)
                vectors = _zeros(vectors)
            wanted = PartWanted(
                Weights({name: rest}, vectors), lambda _: metric, shape, self._task.dtype
            )
            parts[fmt] = cost_of(fmt.kind).fit(fmt, wanted)
        return parts

    def _metric(
        self,
        member: MemberRequest,
        order: torch.Tensor | None,
        user: User,
        name: str,
        matrix: torch.Tensor,
    ) -> Metric:
        store = self._task.statistics
        if store is None:
            return weight_metric((matrix.shape[0], matrix.shape[1]), self._device)
        found = store.metric(user.model, self._task.layer, user.index, name, self._device)
        layout = member.origin.source.layout
        if order is None or layout is None:
            return found
        return reorder_metric(name, found, order, layout)

    def _write(self, held: PartForm, tensors: Mapping[str, torch.Tensor]) -> Part:
        blob = self._registry.write_blob(encode_tensors(tensors))
        label = str(held.format)
        return Part(digest=blob.digest, bytes=blob.bytes, format=label, matrices=held.matrices)


def _zeros(vectors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(vector) for name, vector in vectors.items()}
