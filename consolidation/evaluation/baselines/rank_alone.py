"""Only low rank: a model's difference from the base as two factors, cut off at one rank.

The truncated singular value decomposition gives the nearest matrix of its rank (Eckart & Young,
1936). It is also the baseline of Delta-CoMe (Ping et al., 2024) and of D-QRELO.

Bytes: the base's experts; for each model two factors per matrix in the experts' own dtype, and
its own vectors (biases), as differences in float32.
"""

from dataclasses import dataclass

import torch

from consolidation.arithmetic.decomposition import decompose
from consolidation.arithmetic.metric import weight_metric
from consolidation.evaluation.baselines.subjects import Subjects, Tensors
from representation.formats import LowRank


@dataclass(frozen=True, slots=True)
class RankAlone:
    """The base, and the largest singular directions of a model's difference from it."""

    subjects: Subjects
    rank: int

    @property
    def name(self) -> str:
        """See `Method.name`."""
        return f"low-rank-{self.rank}"

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        subjects = self.subjects
        own = sum(
            subjects.num_experts(layer)
            * LowRank(self.rank).num_bytes(subjects.shape(layer), subjects.dtype, residual=True)
            for layer in range(subjects.num_layers)
        )
        return subjects.one_model_bytes + len(subjects.names) * own

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`."""
        base = self.subjects.base_experts(layer)
        found = self.subjects.model(model, layer)
        for name in self.subjects.shape(layer).matrices:
            near = [nearest(self.subjects, d, self.rank) for d in found[name] - base[name]]
            found[name] = base[name] + torch.stack(near)
        return found


def nearest(subjects: Subjects, difference: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of a rank, from factors in the experts' dtype. (O, I) -> (O, I)"""
    metric = weight_metric((difference.shape[0], difference.shape[1]))
    left, right = decompose(difference, metric, rank)
    return subjects.rounded(left) @ subjects.rounded(right)
