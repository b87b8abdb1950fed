"""What a plan is made from: choices, the release to extend, and the terms. Values only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consolidation.checkpoints.contents import Contents
from consolidation.compare.groups import Group
from consolidation.compare.menu import FileSizes
from consolidation.release import Manifest
from representation.step_reads import DecodeStep


@dataclass(frozen=True, slots=True)
class LayerChoices:
    """A layer's distinct experts, and the choices for them. Without groups nothing is merged."""

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
