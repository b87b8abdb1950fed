"""The smallest expert budget at which all answers stay right, by trial. Publishes nothing.

A trial plans a release, gives a copy of each original the experts that the plan's slots would
hold, and looks at the answers: the same functions as a real run, without its files.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from transformers import MixtralForCausalLM

from consolidation.build import Member, mean_expert
from consolidation.checkpoint import open_checkpoint
from consolidation.executor import LocalExecutor
from consolidation.pipeline import Recipe, consolidate
from consolidation.plan import Plan, Slot
from serve_app.demo.making import load
from serve_app.demo.training import KEPT_MARGIN, smallest_margin

STEP = 0.125
"""Budgets tried are multiples of this, in units of one model's expert bytes."""


class Trial(Protocol):
    """Something that can be tried at a budget."""

    def margin(self, budget: float) -> float:
        """The smallest margin of any answer at this budget, in logits."""
        ...


class Trials:
    """Tries budgets on one family. `words` are what every model must answer rightly."""

    def __init__(self, models: Mapping[str, Path], words: Sequence[str]) -> None:
        self._models = dict(sorted(models.items()))
        self._words = words
        self._opened = {name: open_checkpoint(path) for name, path in self._models.items()}

    def plan(self, budget: float) -> Plan:
        """What consolidating to `budget` would do."""
        # A dry run writes nothing: the registry's place need not exist.
        recipe = Recipe("demo", "memory://demo", self._models, expert_budget=budget)
        return consolidate(recipe, executor=LocalExecutor(), dry_run=True).plan

    def margin(self, budget: float) -> float:
        """The smallest margin of any model's answers with the experts of that plan, in logits."""
        plan = self.plan(budget)
        contents = [
            [self._content(layer, slot) for slot in place.slots]
            for layer, place in enumerate(plan.layers)
        ]
        worst = math.inf
        for name, path in self._models.items():
            model = load(path)
            for place, row, slots in zip(plan.layers, plan.expert_map[name], contents, strict=True):
                _give_experts(model, place.module, [slots[slot] for slot in row])
            worst = min(worst, smallest_margin(model, name, self._words))
        return worst

    def _content(self, layer: int, slot: Slot) -> dict[str, torch.Tensor]:
        return mean_expert(
            tuple(
                Member(self._opened[expert.model].experts[layer], expert.index, count)
                for expert, count in slot.distinct
            )
        )


def smallest_budget(trials: Trial, num_models: int, report: Callable[[float], None]) -> float:
    """The least budget found by halving, between one model and all; all of them always works.

    Right answers need not come and go in order of the budget, so one below may work as well; the
    one returned has been tried and did.
    """
    low, high = round(1 / STEP) - 1, round(num_models / STEP)
    most = math.log2(high - low)
    while high - low > 1:
        report(1 - math.log2(high - low) / most)
        middle = (low + high) // 2
        if trials.margin(middle * STEP) > KEPT_MARGIN:
            high = middle
        else:
            low = middle
    report(1.0)
    return high * STEP


@torch.inference_mode()
def _give_experts(
    model: MixtralForCausalLM, module: str, experts: Sequence[Mapping[str, torch.Tensor]]
) -> None:
    into = model.get_submodule(module)
    for index, tensors in enumerate(experts):
        for name, tensor in tensors.items():
            getattr(into, name)[index].copy_(tensor)
