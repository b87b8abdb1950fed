"""A plan: how every expert of a release will be stored. Values only; `plan/solver.py` makes them.

A release that is extended keeps its slots and residuals; new models may use its slots.
"""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from consolidation.checkpoints.contents import Expert, NeuronOrder
from consolidation.compare.part_form import PartForms
from representation.step_reads import DecodeStep

Maps = Mapping[str, tuple[tuple[int, ...], ...]]
ResidualMaps = Mapping[str, tuple[tuple[tuple[int, ...], ...], ...]]


@dataclass(frozen=True, slots=True)
class Held:
    """An expert that a slot holds, or that is `count` times in its mean. `model` None is the base.

    Without an order its neurons stay as they are.
    """

    model: str | None
    index: int
    count: int = 1
    order: NeuronOrder | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """Experts of one content that use a slot, and the residuals they share.

    by_adapter: whether those are the factors that their adapter adds to what the slot holds.
    """

    users: tuple[Expert, ...]
    residuals: PartForms = ()
    order: NeuronOrder | None = None
    by_adapter: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot to build. `digest` is that of its blob, where it is known beforehand.

    `forms` are those of its parts, each for some of the matrices.
    """

    holds: tuple[Held, ...]
    forms: PartForms
    members: tuple[Member, ...]
    digest: str | None


@dataclass(frozen=True, slots=True)
class KeptSlot:
    """A slot of the extended release, by its index there, and the new members that use it.

    `others` are the parts of the slot beside the one with its index.
    """

    index: int
    members: tuple[Member, ...]
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """One layer: what is kept of an extended release, then what is built.

    Parts of a slot are neighbours. Residuals come in the same order: kept ones, then those of
    members, slot by slot.
    """

    module: str
    kept: tuple[KeptSlot, ...]
    slots: tuple[Slot, ...]
    kept_residuals: tuple[int, ...] = ()

    @property
    def num_slots(self) -> int:
        return len(self.kept) + len(self.slots)

    @property
    def parts(self) -> list[range]:
        """Of each slot, the places of its parts among those of all; a map names the first."""
        sizes = [1 + len(slot.others) for slot in self.kept]
        sizes += [len(slot.forms) for slot in self.slots]
        starts = itertools.accumulate(sizes, initial=0)
        return [range(start, start + size) for start, size in zip(starts, sizes, strict=False)]

    @property
    def members(self) -> list[tuple[int, Member]]:
        """All new members, with the slot of each."""
        shared = [(i, member) for i, slot in enumerate(self.kept) for member in slot.members]
        first = len(self.kept)
        built = enumerate(self.slots, start=first)
        return shared + [(i, member) for i, slot in built for member in slot.members]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a release's experts will be stored. Bytes are those of files and maps.

    `error` is the expected error of all new models together, in nats per token or, without
    calibration, in squares of weights. With calibration `predicted_kl` has it by new model;
    without, `relative_error` is the root of squared weight errors over that of squared weights.
    `approximated` are the new models that do not get their experts back bit for bit.
    `step_bytes` are the bytes of experts that `decode_step` reads.
    """

    models: tuple[str, ...]
    layers: tuple[PlannedLayer, ...]
    expert_map: Maps
    residual_map: ResidualMaps
    expert_bytes_before: int
    expert_bytes_after: int
    expert_bytes_one_model: int
    approximated: frozenset[str]
    error: float
    predicted_kl: Mapping[str, float] | None
    relative_error: float | None
    decode_step: DecodeStep
    step_bytes: int

    @property
    def digest(self) -> str:
        """Equal for plans that build the same."""
        return hashlib.sha256(repr(self.layers).encode()).hexdigest()[:16]

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
        """Numbers of experts of new models, by the formats of slot and residuals."""
        found: dict[str, int] = {}
        for layer in self.layers:
            for slot, member in layer.members:
                built = slot - len(layer.kept)
                forms = () if built < 0 else layer.slots[built].forms
                first = " / ".join(map(str, forms)) or "kept"
                label = " + ".join([first, *map(str, member.residuals)])
                found[label] = found.get(label, 0) + len(member.users)
        return dict(sorted(found.items()))
