"""TIES-Merging (Yadav et al., "Resolving interference when merging models", 2023, section 4).

Trim: keep the largest fifth of each task vector. Elect: a weight's sign is that of the sum.
Merge: the mean of the values with this sign, times 1. These are the paper's own settings. Trimming
is per parameter tensor, because experts are merged a layer at a time. Bytes: see `task_vectors`.
"""

import torch

from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.baselines.task_vectors import TaskVectors

DENSITY = 0.2
SCALE = 1.0


def ties(subjects: Subjects) -> TaskVectors:
    """Trims, elects signs and merges."""
    return TaskVectors("ties", subjects, _merge)


def _merge(differences: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    trimmed = torch.stack([_trim(one) for one in differences])
    agreeing = trimmed * trimmed.sum(0).sign() > 0
    return SCALE * (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)


def _trim(difference: torch.Tensor) -> torch.Tensor:
    num_kept = max(1, int(DENSITY * difference.numel()))
    least = difference.abs().flatten().kthvalue(difference.numel() - num_kept + 1).values
    return torch.where(difference.abs() >= least, difference, 0.0)
