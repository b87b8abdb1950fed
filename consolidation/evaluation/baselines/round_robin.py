"""Selection by distance, round-robin (Imani et al., arXiv 2505.06481, section 3.1).

The distance at a position (layer, index) is the sum, over pairs of models, of the L2 distances of
their flattened weights. Positions are sorted by it, the smallest first, and each is filled with
one model's own expert. Models take turns in the order of their names. Here every position is
shared. Bytes: one model's experts, in their own dtype.
"""

from itertools import combinations

import torch

from consolidation.evaluation.baselines.subjects import Subjects, Tensors


class RoundRobin:
    """One model's own expert at every position. Reads all experts once to sort the positions."""

    def __init__(self, subjects: Subjects) -> None:
        self.name = "round-robin"
        self._subjects = subjects
        distances = [
            (distance, layer, index)
            for layer in range(subjects.num_layers)
            for index, distance in enumerate(_distances(subjects, layer))
        ]
        self._chosen = {
            (layer, index): subjects.names[turn % len(subjects.names)]
            for turn, (_, layer, index) in enumerate(sorted(distances))
        }

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        return self._subjects.one_model_bytes

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`: the same for every model."""
        positions = range(self._subjects.num_experts(layer))
        read = [self._subjects.expert(self._chosen[layer, i], layer, i) for i in positions]
        return {name: torch.stack([one[name] for one in read]) for name in read[0]}


def _distances(subjects: Subjects, layer: int) -> list[float]:
    """For each position in a layer, the sum of distances between models."""
    total = torch.zeros(subjects.num_experts(layer), dtype=torch.float64)
    stacks = subjects.all_models(layer).values()
    for one, other in combinations(range(len(subjects.names)), 2):
        apart = torch.cat([(stack[one] - stack[other]).flatten(1) for stack in stacks], 1)
        total += torch.linalg.vector_norm(apart, dim=1, dtype=torch.float64)  # (E,)
    return [float(distance) for distance in total]
