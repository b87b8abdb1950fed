"""The base's experts for every model: what is left if nothing that was tuned is kept.

Exact for a fine-tune that froze its experts. Bytes: one model's experts, in their own dtype.
"""

from dataclasses import dataclass

from consolidation.evaluation.baselines.subjects import Subjects, Tensors


@dataclass(frozen=True, slots=True)
class BaseExperts:
    """The base's experts inside each model's own backbone."""

    subjects: Subjects
    name: str = "base-experts"

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        return self.subjects.one_model_bytes

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`: the same for every model."""
        return self.subjects.base_experts(layer)
