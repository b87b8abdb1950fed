"""What a plan is made from: choices, the release to extend, and the terms. Values only."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from consolidation.checkpoints.contents import Contents
from consolidation.compare.groups import Group, SlotChoice
from consolidation.compare.menu import FileSizes
from consolidation.release import Manifest
from representation.step_reads import DecodeStep


@dataclass(frozen=True, slots=True)
class LayerChoices:
    """A layer's distinct experts, and the choices for them. Without groups nothing is merged."""

    contents: Contents
    sizes: FileSizes
    groups: tuple[Group, ...] | None

    @property
    def ungrouped(self) -> list[SlotChoice]:
        """Lossless choices for the experts that are in no group."""
        grouped = {member for group in self.groups or () for member in group.members}
        every = range(len(self.contents.digests))
        return self.as_they_are(position for position in every if position not in grouped)

    def as_they_are(self, positions: Iterable[int]) -> list[SlotChoice]:
        """Lossless choices for these experts."""
        kept, digests = self.contents.kept, self.contents.digests
        return [SlotChoice.exactly(i, kept.get(digests[i])) for i in positions]


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
    """What a plan must keep to. `allowed` is in bytes; None: nothing may be lost.

    `responses` gives, by model, the divergence that an error is expected to cause; None where
    nothing was calibrated and errors are squares of weights. `decode_step` is the step whose bytes
    are stated. `max_formats` is how many formats a layer may have; None: any number.
    """

    models: tuple[str, ...]
    one_model: int
    allowed: int | None
    responses: Mapping[str, Callable[[float], float]] | None
    square_norm: float
    decode_step: DecodeStep = field(default_factory=DecodeStep)
    max_formats: int | None = None
