"""EMR-Merging (Huang et al., "Elect, mask and rescale", 2024, section 3).

Elect: a unified task vector has the sign of the sum, and the largest value with that sign among the
models. Mask: each model takes the weights for which its own sign is the same. Rescale: so that the
mean absolute value is the model's own, by one factor per parameter tensor and layer.

Bytes: the base and the unified task vector in their own dtype; for each model one bit per weight,
and 4 bytes for every factor.
"""

import math
from dataclasses import dataclass

import torch

from consolidation.evaluation.baselines.subjects import Subjects, Tensors

FACTOR_BYTES = 4


@dataclass(frozen=True, slots=True)
class Emr:
    """The base, plus what a model's mask takes from the unified task vector."""

    subjects: Subjects
    name: str = "emr"

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        subjects = self.subjects
        own = 0
        for layer in range(subjects.num_layers):
            for shape in subjects.shape(layer).parameters.values():
                num_weights = subjects.num_experts(layer) * math.prod(shape)
                own += math.ceil(num_weights / 8) + FACTOR_BYTES
        return 2 * subjects.one_model_bytes + len(subjects.names) * own

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`."""
        base = self.subjects.base_experts(layer)
        place = self.subjects.names.index(model)
        found = {}
        for name, stack in self.subjects.all_models(layer).items():
            differences = stack - base[name]  # (M, E, …)
            unified = self.subjects.rounded(_elect(differences))
            found[name] = base[name] + _own(differences[place], unified)
        return found


def _elect(differences: torch.Tensor) -> torch.Tensor:
    signs = differences.sum(0).sign()
    return signs * (differences * signs).amax(0).clamp_min(0.0)


def _own(difference: torch.Tensor, unified: torch.Tensor) -> torch.Tensor:
    masked = torch.where(difference * unified > 0, unified, 0.0)
    size = masked.abs().sum()
    return masked * (difference.abs().sum() / size) if size > 0 else masked
