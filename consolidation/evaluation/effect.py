"""Effect: how far a model is from its base, which is what a release of it can lose. One task each.

The original runs first, then the base, so one of them is in memory at a time.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from consolidation.evaluation.data import ModelData
from consolidation.evaluation.reference import Reference
from consolidation.statistics.positions import EQUAL
from consolidation.statistics.scoring import (
    KeptLogits,
    load_original,
    score_original,
    score_release,
)
from consolidation.statistics.text import Window


@dataclass(frozen=True, slots=True)
class EffectTask:
    """One model and its base, on the windows and the data that a release is measured on."""

    name: str
    directory: Path
    base: Path
    modules: tuple[str, ...]
    windows: tuple[Window, ...]
    data: ModelData | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """KL(original || base) in nats per token. own: on the model's own task and text, if any."""

    kl: float
    own: float | None


def measure_effect(task: EffectTask) -> dict[str, float | None]:
    """The fields of a model's `Effect`. Raises `Refused`."""
    model = load_original(task.directory)
    with ExitStack() as stack:
        kept = stack.enter_context(KeptLogits())
        scores = score_original(model, task.windows, kept)
        reference = None
        if task.data is not None:
            found = Reference(task.name, model, task.modules, task.data)
            reference = stack.enter_context(found)
        del model
        base = load_original(task.base)
        figures = score_release(base, task.windows, kept, scores).figures or EQUAL
        return {"kl": figures.kl, "own": None if reference is None else reference.score(base).kl}
