"""Validate: how far each model of a release is from its original. One task per model.

The original runs on the calibration text, and then the model that the registry holds, read back
from there: so the test is of what was really written, and one layer is in memory at a time.
Backbones must come back exactly. If no expert of a model was merged, all of it must, and it is not
run again: its divergence is 0.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from consolidation.arithmetic.on_device import CPU, same_sums
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused, RunFailed
from consolidation.evaluation.data import ModelData
from consolidation.evaluation.golden_prompts import golden_of, golden_work
from consolidation.evaluation.measures import ModelScore
from consolidation.evaluation.reference import Reference, reference_work
from consolidation.release import Blob, Golden, Part, Quality, Registry
from consolidation.run.executor import Tell, tell_nobody
from consolidation.statistics.positions import EQUAL
from consolidation.statistics.scoring import Scores, score, scoring_work
from consolidation.statistics.windows import Window
from consolidation.walk.course import FILLING, Course
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights, ReleasedWeights

PART = 1 << 22
"""Values that are compared together."""


@dataclass(frozen=True, slots=True)
class ModelTask:
    """One model of a release that is not yet published.

    `experts[layer][index]` are the parts of expert `index`, its slot first; `merged` says whether
    any of them differs from the original expert. Both are scored on `windows`; `data` is the
    model's own task and text, if quality limits need them. `original` is the model as it lies on
    disk, if tensors of others stand in `checkpoint` for some of its own. `device` computes.
    """

    name: str
    checkpoint: Checkpoint
    registry: str
    family: str
    experts: tuple[tuple[tuple[Part, ...], ...], ...]
    backbone: tuple[Blob, ...]
    merged: bool
    windows: tuple[Window, ...]
    data: ModelData | None = None
    original: Checkpoint | None = None
    device: torch.device = CPU

    @property
    def differs(self) -> bool:
        """Whether any tensor of the release differs from the model on disk."""
        return self.merged or self.original is not None

    @property
    def released(self) -> ReleasedWeights:
        """The model as the registry holds it."""
        return ReleasedWeights(
            registry=Registry(self.registry, self.family),
            config=self.checkpoint.config,
            blobs=self.backbone,
            experts=self.experts,
            shapes=[source.shape for source in self.checkpoint.experts],
            device=self.device,
        )


@dataclass(frozen=True, slots=True)
class Validated:
    """What validating a model found. `score` is on its own task and text."""

    quality: Quality
    golden: Golden
    score: ModelScore | None


def validate_model(task: ModelTask, tell: Tell = tell_nobody) -> dict[str, Any]:
    """Quality and golden prompt of one model. Raises `Refused`, `RunFailed` or `ReleaseError`."""
    course = Course(tell, _work(task))
    check_exact(task)
    course.passed(FILLING)
    with same_sums(task.device):
        return _validated(task, course)


def _validated(task: ModelTask, course: Course) -> dict[str, Any]:
    weights = CheckpointWeights(task.original or task.checkpoint)
    original = StreamedModel(weights, task.device, course.passed)
    release = StreamedModel(task.released, task.device, course.passed)
    scores = score(original, task.windows, release if task.differs else None)
    own = None
    if task.data is not None:
        with Reference(task.name, original, task.data) as reference:
            own = reference.score(release)
    golden = golden_of(release, task.windows[0])
    quality = _quality(task.name, scores)
    if own is not None:
        accuracies = {"accuracy_original": own.accuracy_original, "accuracy_release": own.accuracy}
        quality = quality.model_copy(update=accuracies)
    return {
        "quality": quality.model_dump(),
        "golden": golden.model_dump(mode="json"),
        "score": None if own is None else asdict(own),
    }


def _work(task: ModelTask) -> float:
    """What validating a model does at most, as `walk/course.py` counts it."""
    scoring = (2 if task.differs else 1) * scoring_work(task.windows)
    data = 0 if task.data is None else reference_work(task.data)
    return FILLING + scoring + data + golden_work()


def check_exact(task: ModelTask) -> None:
    """Compare what must be the original's to the bit: the backbone, and experts unless merged.

    Raises `RunFailed` with the name of a tensor that did not come back exactly.
    """
    release = task.released
    for part in task.checkpoint.backbone:
        _check_equal(task.name, part.read(), release.backbone(part.name))
    for layer, source in enumerate(() if task.merged else task.checkpoint.experts):
        for index in range(source.num_experts):
            inside = f"{source.module}.{index}"
            wanted, found = source.read(index), release.expert(layer, index)
            _check_equal(
                task.name,
                {f"{inside}.{name}": tensor for name, tensor in wanted.items()},
                {f"{inside}.{name}": tensor for name, tensor in found.items()},
            )


def _check_equal(
    model: str, wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
    for name, tensor in wanted.items():
        if name not in found or not _same(found[name], tensor):
            raise RunFailed(f"model {model!r}: {name} did not come back exactly")


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """A part at a time: embeddings are large, and what they are compared by is larger."""
    if found.shape != wanted.shape:
        return False
    parts = zip(found.reshape(-1).split(PART), wanted.reshape(-1).split(PART), strict=True)
    # NaN counts as equal to itself here: it may be in a row that no token uses.
    return all(
        torch.allclose(one.cpu().to(two.dtype), two, rtol=0, atol=0, equal_nan=True)
        for one, two in parts
    )


def _quality(name: str, scores: Scores) -> Quality:
    figures = scores.figures or EQUAL
    original = scores.loss_original / scores.tokens
    release = scores.loss_release / scores.tokens
    if not all(math.isfinite(value) and value < 700 for value in (figures.kl, original, release)):
        raise Refused(f"model {name!r} gives values that are not finite on the calibration text")
    return Quality(
        **asdict(figures),
        perplexity_original=math.exp(original),
        perplexity_release=math.exp(release),
        tokens=scores.tokens,
        routers=scores.routers,
    )


def validated(result: dict[str, Any]) -> Validated:
    """A task's result as values."""
    score = result["score"]
    if score is not None:
        score = ModelScore(**{**score, "router_agreement": tuple(score["router_agreement"])})
    return Validated(
        Quality.model_validate(result["quality"]), Golden.model_validate(result["golden"]), score
    )
