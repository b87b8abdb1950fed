"""Task arithmetic (Ilharco et al., "Editing models with task arithmetic", 2023).

The sum of all task vectors, scaled by 0.4, which is what TIES-Merging (Yadav et al., 2023,
section 6) uses for it if there is no validation data to choose by. Bytes: see `task_vectors`.
"""

import torch

from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.baselines.task_vectors import TaskVectors

SCALE = 0.4


def task_arithmetic(subjects: Subjects) -> TaskVectors:
    """Adds up the task vectors of all models."""
    return TaskVectors("task-arithmetic", subjects, _sum)


def _sum(differences: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    return SCALE * differences.sum(0)
