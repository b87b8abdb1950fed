"""Validate: how far each model of a release is from its original. One task per model.

transformers loads the original, and it runs on the calibration text. Then it gets the release's own
tensors in place, read back from the registry. So one model is in memory at a time, and the test is
of what was really written. Backbones must come back exactly. If every tensor of a model came back
exactly, it is not run again: its divergence is 0.
"""

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from consolidation.errors import Refused, RunFailed
from consolidation.evaluation.data import ModelData
from consolidation.evaluation.measures import ModelScore
from consolidation.evaluation.reference import Reference
from consolidation.release import Blob, Golden, Part, Quality, Registry, read_expert
from consolidation.statistics.positions import EQUAL
from consolidation.statistics.scoring import (
    KeptLogits,
    Scores,
    golden_of,
    load_original,
    score_original,
    score_release,
)
from consolidation.statistics.text import Window
from representation.formats import ExpertShape


@dataclass(frozen=True, slots=True)
class ModelTask:
    """One model of a release that is not yet published.

    `experts[layer][index]` are the parts of expert `index`, its slot first; `merged` says whether
    any of them differs from the original expert. Both are scored on `windows`; `data` is the
    model's own task and text, if quality limits need them. `stand_ins` are tensors that are stored
    as another model's.
    """

    name: str
    directory: Path
    registry: str
    family: str
    modules: tuple[str, ...]
    experts: tuple[tuple[tuple[Part, ...], ...], ...]
    backbone: tuple[Blob, ...]
    merged: bool
    windows: tuple[Window, ...]
    data: ModelData | None = None
    stand_ins: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Validated:
    """What validating a model found. `score` is on its own task and text."""

    quality: Quality
    golden: Golden
    score: ModelScore | None


def validate_model(task: ModelTask) -> dict[str, Any]:
    """Quality and golden prompt of one model. Raises `Refused`, `RunFailed` or `ReleaseError`."""
    model = load_original(task.directory)
    with ExitStack() as stack:
        kept = stack.enter_context(KeptLogits())
        scores = score_original(model, task.windows, kept if task.merged else None)
        reference = None
        if task.data is not None:
            found = Reference(task.name, model, task.modules, task.data)
            reference = stack.enter_context(found)
        if give_release(model, task) or task.stand_ins:
            if not task.merged:
                raise RunFailed(f"model {task.name!r}: unmerged experts did not come back exactly")
            scores = score_release(model, task.windows, kept, scores)
        score = None if reference is None else reference.score(model)
    golden = golden_of(model, task.windows[0])
    quality = _quality(task.name, scores)
    if score is not None:
        accuracies = {
            "accuracy_original": score.accuracy_original,
            "accuracy_release": score.accuracy,
        }
        quality = quality.model_copy(update=accuracies)
    return {
        "quality": quality.model_dump(),
        "golden": golden.model_dump(mode="json"),
        "score": None if score is None else asdict(score),
    }


def give_release(model: Any, task: ModelTask) -> bool:
    """Put the release's tensors into the model, in place. -> whether any expert has changed

    Raises `RunFailed` if a tensor of the backbone differs from the original.
    """
    registry = Registry(task.registry, task.family)
    for blob in task.backbone:
        for name, tensor in registry.read_tensors(blob).items():
            if _put(model.get_parameter_or_buffer(name), tensor) and name not in task.stand_ins:
                raise RunFailed(f"model {task.name!r}: {name} did not come back exactly")
    changed = False
    for path, layer in zip(task.modules, task.experts, strict=True):
        module = model.get_submodule(path)
        sizes = {name: tuple(p.shape[1:]) for name, p in module.named_parameters(recurse=False)}
        shape = ExpertShape(sizes, module.is_transposed)
        for index, parts in enumerate(layer):
            for name, tensor in read_expert(registry, parts, shape).items():
                changed |= _put(getattr(module, name)[index], tensor)
    return changed


@torch.inference_mode()
def _put(there: torch.Tensor, tensor: torch.Tensor) -> bool:
    value = tensor.to(there.dtype)
    # NaN counts as equal to itself here: it may be in a row that no token uses.
    if torch.equal(there, value) or torch.allclose(there, value, rtol=0, atol=0, equal_nan=True):
        return False
    there.copy_(value)
    return True


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
    )


def validated(result: dict[str, Any]) -> Validated:
    """A task's result as values."""
    score = result["score"]
    if score is not None:
        score = ModelScore(**{**score, "router_agreement": tuple(score["router_agreement"])})
    return Validated(
        Quality.model_validate(result["quality"]), Golden.model_validate(result["golden"]), score
    )
