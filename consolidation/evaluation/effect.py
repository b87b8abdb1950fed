"""Effect: how far a model is from its base, which is what a release can lose. One task a model."""

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from consolidation.arithmetic.on_device import CPU, same_sums
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.evaluation.data import ModelData
from consolidation.evaluation.reference import Reference, reference_work
from consolidation.run.executor import Tell, tell_nobody
from consolidation.statistics.positions import EQUAL
from consolidation.statistics.scoring import score, scoring_work
from consolidation.statistics.windows import Window
from consolidation.walk.course import Course
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights


@dataclass(frozen=True, slots=True)
class EffectTask:
    """One model and its base, on the windows and the data that a release is measured on.

    device: that computes.
    """

    name: str
    checkpoint: Checkpoint
    base: Checkpoint
    windows: tuple[Window, ...]
    data: ModelData | None = None
    device: torch.device = CPU

    def measured_on(self) -> str:
        """A digest of the windows and the data."""
        return hashlib.sha256(repr((self.windows, self.data)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Effect:
    """KL(original || base) in nats per token. own: on the model's own task and text, if any."""

    kl: float
    own: float | None


def measure_effect(task: EffectTask, tell: Tell = tell_nobody) -> dict[str, float | None]:
    """The fields of a model's `Effect`. Raises `Refused`."""
    work = 2 * scoring_work(task.windows) + (reference_work(task.data) if task.data else 0)
    course = Course(tell, work)
    with ExitStack() as stack:
        stack.enter_context(same_sums(task.device))
        original = StreamedModel(CheckpointWeights(task.checkpoint), task.device, course.passed)
        base = StreamedModel(CheckpointWeights(task.base), task.device, course.passed)
        figures = score(original, task.windows, base).figures or EQUAL
        own = None
        if task.data is not None:
            reference = stack.enter_context(Reference(task.name, original, task.data))
            own = reference.score(base).kl
        return {"kl": figures.kl, "own": own}
