"""Methods that merge what fine-tuning added to the base, into one set of experts for all.

The differences of models from their base are *task vectors* (Ilharco et al., 2023). Methods differ
in the rule that merges several into one. Bytes: one model's experts, in their own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from consolidation.evaluation.baselines.subjects import Subjects, Tensors

Rule = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""A parameter's task vectors (M, E, …), a random generator -> the vector to add, (E, …)"""


@dataclass(frozen=True, slots=True)
class TaskVectors:
    """The base's experts plus a merged task vector. Every layer seeds the generator again."""

    name: str
    subjects: Subjects
    rule: Rule

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        return self.subjects.one_model_bytes

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`: the same for every model."""
        chance = torch.Generator().manual_seed(layer)
        base = self.subjects.base_experts(layer)
        models = self.subjects.all_models(layer)
        return {
            name: self.subjects.rounded(base[name] + self.rule(stack - base[name], chance))
            for name, stack in models.items()
        }
