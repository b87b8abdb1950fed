"""Methods that merge what fine-tuning added to the base into one, for all models alike.

The differences of models to their base are *task vectors* (Ilharco et al., 2023); methods differ
in the rule that makes one of several. Bytes: one model's experts, in their own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from consolidation.evaluation.baselines.subjects import Subjects, Tensors

Rule = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""A parameter's task vectors (M, E, …), a source of chance -> the one that is added, (E, …)"""


@dataclass(frozen=True, slots=True)
class TaskVectors:
    """The base's experts and a merged task vector. Chance begins anew in every layer."""

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
