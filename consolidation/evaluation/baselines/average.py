"""The plain mean of all models' experts (uniform model soup: Wortsman et al., 2022, section 2).

Needs no base. Bytes: one model's experts, in their own dtype.
"""

from dataclasses import dataclass

from consolidation.evaluation.baselines.subjects import Subjects, Tensors


@dataclass(frozen=True, slots=True)
class Average:
    """Every parameter is the mean over the models."""

    subjects: Subjects
    name: str = "average"

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        return self.subjects.one_model_bytes

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`: the same for every model."""
        models = self.subjects.all_models(layer)
        return {name: self.subjects.rounded(stack.mean(0)) for name, stack in models.items()}
