"""DARE (Yu et al., "Language models are super Mario", 2024, section 3.2), with task arithmetic.

A random share of each task vector's weights is dropped, and the rest is divided by the share that
is kept, so the expectation stays the same. Then the vectors are added as in task arithmetic.
Bytes: see `task_vectors`.
"""

import torch

from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.baselines.task_arithmetic import SCALE
from consolidation.evaluation.baselines.task_vectors import TaskVectors

DROPPED = 0.5


def dare(subjects: Subjects) -> TaskVectors:
    """Drops, rescales and adds up."""
    return TaskVectors("dare", subjects, _merge)


def _merge(differences: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    kept = torch.rand(differences.shape, generator=chance) >= DROPPED
    return SCALE * (differences * kept).sum(0) / (1 - DROPPED)
