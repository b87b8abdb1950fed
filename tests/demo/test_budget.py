"""The search for the smallest budget."""

from pathlib import Path

import pytest
import torch

from serve_app.demo.budget import STEP, Trials, smallest_budget
from serve_app.demo.making import RECIPES, save
from serve_app.demo.training import new_model


class Threshold:
    """Answers are right from some budget on."""

    def __init__(self, least: float) -> None:
        self.least = least
        self.tried: list[float] = []

    def margin(self, budget: float) -> float:
        self.tried.append(budget)
        return 1.0 if budget >= self.least else -1.0


@pytest.mark.parametrize("least", [0.1, 1.0, 1.3, 2.0, 3.875, 6.0, 9.0])
def test_the_search_finds_the_first_step_at_which_answers_are_right(least: float) -> None:
    trials, shares = Threshold(least), list[float]()
    found = smallest_budget(trials, 6, shares.append)
    expected = min(max(1.0, -(-least // STEP) * STEP), 6.0)
    assert found == expected
    assert len(trials.tried) <= 6
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_trial_at_full_budget_leaves_answers_as_they_are(tmp_path: Path) -> None:
    models = {}
    for seed, recipe in enumerate(RECIPES[:2]):
        models[recipe.model] = tmp_path / recipe.model
        model = new_model(seed)
        with torch.no_grad():  # experts that matter, before they have learned anything
            for name, parameter in model.named_parameters():
                parameter.mul_(10 if ".experts." in name else 1)
        save(model, recipe, models[recipe.model], steps=0)
    trials = Trials(models, ("fox", "table"))
    assert trials.margin(2.0) == trials.margin(3.0)
    assert trials.plan(1.0).expert_bytes_after < trials.plan(2.0).expert_bytes_after
    assert trials.margin(1.0) != trials.margin(2.0)
