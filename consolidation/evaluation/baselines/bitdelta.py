"""Signs: alone (BitDelta), and with a low rank of what they leave (D-QRELO).

BitDelta (Liu et al., "Your fine-tune may only be worth one bit", 2024, section 3): a model's
difference from the base becomes its signs times the mean absolute value of each matrix, the best
factor by squared error. The paper then tunes the factors on text; this does not. D-QRELO (Li et
al., arXiv 2604.16940, 2026) adds two factors of what is left, without data or training. Its
results at an eighth of the bytes spend as much on factors as on signs; so does this: each matrix
has the largest rank whose factors take no more bytes than its signs, and at least 1.

Bytes: the base's experts; for each model one bit per weight and 4 bytes per matrix, and its own
vectors (biases) as they are. With a low rank, its factors too, in the experts' own dtype.
"""

import math
from dataclasses import dataclass

import torch

from consolidation.evaluation.baselines.rank_alone import nearest
from consolidation.evaluation.baselines.subjects import Subjects, Tensors

FACTOR_BYTES = 4


@dataclass(frozen=True, slots=True)
class BitDelta:
    """The base, and the signs of a model's difference from it."""

    subjects: Subjects
    name: str = "bitdelta"

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        subjects = self.subjects
        own = 0
        for layer in range(subjects.num_layers):
            shape = subjects.shape(layer)
            matrices = [math.prod(shape.matrix(name)) for name in shape.matrices]
            one = sum(math.ceil(weights / 8) + FACTOR_BYTES for weights in matrices)
            one += (
                sum(shape.parameters[name][0] for name in shape.vectors) * subjects.dtype.itemsize
            )
            own += subjects.num_experts(layer) * one
        return subjects.one_model_bytes + len(subjects.names) * own

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`."""
        base = self.subjects.base_experts(layer)
        found = self.subjects.model(model, layer)
        for name in self.subjects.shape(layer).matrices:
            found[name] = base[name] + _signs(found[name] - base[name])
        return found


@dataclass(frozen=True, slots=True)
class DQrelo:
    """The base, the signs of a model's difference, and the largest directions of the rest."""

    subjects: Subjects
    name: str = "d-qrelo"

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        subjects = self.subjects
        own = 0
        for layer in range(subjects.num_layers):
            shape = subjects.shape(layer)
            factors = sum(
                self._rank(*shape.matrix(name)) * sum(shape.matrix(name)) for name in shape.matrices
            )
            own += subjects.num_experts(layer) * factors * subjects.dtype.itemsize
        return BitDelta(subjects).expert_bytes + len(subjects.names) * own

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`."""
        base = self.subjects.base_experts(layer)
        found = self.subjects.model(model, layer)
        for name in self.subjects.shape(layer).matrices:
            difference = found[name] - base[name]  # (E, …)
            coarse = _signs(difference)
            rank = self._rank(*difference.shape[1:])
            rest = [nearest(self.subjects, one, rank) for one in difference - coarse]
            found[name] = base[name] + coarse + torch.stack(rest)
        return found

    def _rank(self, num_rows: int, num_columns: int) -> int:
        bits = 8 * self.subjects.dtype.itemsize
        return max(1, num_rows * num_columns // (bits * (num_rows + num_columns)))


def _signs(differences: torch.Tensor) -> torch.Tensor:
    """(E, …) -> (E, …). A bit has no zero: a weight that equals the base gets a sign too."""
    factors = differences.abs().mean((1, 2), keepdim=True)
    return torch.where(differences >= 0, factors, -factors)
