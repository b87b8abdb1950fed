"""Runs each model with the experts of a method in place of its own, on its own task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import SwitchTransformersForConditionalGeneration

from consolidation.checkpoints.checkpoint import ExpertsSource, open_checkpoint
from consolidation.evaluation.baselines.average import Average
from consolidation.evaluation.baselines.round_robin import RoundRobin
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.methods import Method, ReleaseMethod
from consolidation.release import ReleaseReader
from serve_app.demo import skills
from tests.paper_table.training import BASE, VARIANTS, share_right

Scores = Mapping[str, float]
"""By variant, the share of its words that are answered rightly."""


def subjects(directory: Path, names: tuple[str, ...]) -> Subjects:
    """Some variants, and the base."""
    models = {name: open_checkpoint(directory / name) for name in names}
    return Subjects(models, open_checkpoint(directory / BASE))


def methods(directory: Path, reader: ReleaseReader) -> dict[str, tuple[tuple[str, ...], Method]]:
    """By what the table calls them: the variants that share experts, and the method."""
    found: dict[str, tuple[tuple[str, ...], Method]] = {}
    for count in (2, 3, 4):
        names = VARIANTS[:count]
        method = RoundRobin(subjects(directory, names))
        found[f"the paper's selection, {count} variants"] = (names, method)
    found["plain average, 4 variants"] = (VARIANTS, Average(subjects(directory, VARIANTS)))
    found["expertpool, 4 variants"] = (VARIANTS, ReleaseMethod(reader))
    return found


def scores(directory: Path, names: tuple[str, ...], method: Method | None) -> Scores:
    """Of the variants, each on its own task with all words that nothing was trained on."""
    words = (*skills.CHECK, *skills.HELD_OUT)
    found = {}
    for name in names:
        model = SwitchTransformersForConditionalGeneration.from_pretrained(
            directory / name, dtype=torch.float32
        ).eval()
        if method is not None:
            _replace_experts(model, open_checkpoint(directory / name).experts, method, name)
        found[name] = share_right(model, name, words)
    return found


@torch.no_grad()
def _replace_experts(
    model: Any, sources: Sequence[ExpertsSource], method: Method, name: str
) -> None:
    for layer, source in enumerate(sources):
        given = method.experts(name, layer)
        experts = model.get_submodule(source.module)
        for index in range(source.num_experts):
            expert = experts[f"expert_{index}"]
            expert.wi.weight.copy_(given["up_proj"][index])
            expert.wo.weight.copy_(given["down_proj"][index])
