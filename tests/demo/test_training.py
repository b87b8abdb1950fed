"""Training, for a few steps: what moves, what stays, what is saved."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from transformers import MixtralForCausalLM

from serve_app.demo import making, skills
from serve_app.demo.byte_tokenizer import BOS, EOS, decode_answer
from serve_app.demo.making import RECIPES, load, save
from serve_app.demo.training import (
    IGNORED,
    NotLearned,
    TrainingRecipe,
    margins,
    new_model,
    rows,
    train,
    training_pairs,
)


def recipe(model: str, **changes: int) -> TrainingRecipe:
    (found,) = [one for one in RECIPES if one.model == model]
    return replace(found, most_steps=2, cooldown=1, batch=4, **changes)  # type: ignore[arg-type]


def weights(model: MixtralForCausalLM) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changes(model: str) -> dict[str, Tensor]:
    """What two steps of a model's recipe add to each weight."""
    trained = new_model(0)
    before = weights(trained)
    with pytest.raises(NotLearned, match=f"'{model}' still answers wrongly after 2 steps"):
        train(trained, recipe(model), lambda share: None)
    after = weights(trained)
    assert after.keys() == before.keys()
    return {name: after[name] - before[name] for name in before}


def test_all_weights_move_in_a_full_fine_tune() -> None:
    moved = changes("spell")
    assert all(float(change.norm()) > 0 for change in moved.values())


def test_frozen_experts_stay_to_the_bit_while_all_else_moves() -> None:
    for name, change in changes("shout").items():
        assert (".experts." in name) == (float(change.norm()) == 0), name


def test_low_rank_updates_are_of_that_rank_in_experts_and_attention_alone() -> None:
    for name, change in changes("cipher").items():
        if ".experts." in name or ".self_attn." in name:
            singular = torch.linalg.svdvals(change.double())  # (..., min(out, in))
            assert float(singular[..., 0].max()) > 0, name  # an expert may have had no token
            assert bool((singular[..., 8] <= 1e-2 * singular[..., 0]).all()), name
        else:
            assert float(change.norm()) == 0, name


def test_the_same_seed_trains_the_same_model() -> None:
    first, second = changes("spell"), changes("spell")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_answers_count_in_the_loss() -> None:
    tokens, labels = rows([("ab:", "B"), ("abc:", "CBA")])
    assert tokens[0, 0] == BOS
    assert labels[0].tolist() == [IGNORED] * 4 + [ord("B"), EOS] + [IGNORED] * 3
    assert decode_answer(tokens[1, 5:].tolist()) == "CBA"


def test_training_pairs_are_right_answers() -> None:
    for skill in skills.SKILLS:
        for prompt, answer in training_pairs(Random(0), skill.name, 50):
            assert answer == skill.answer(prompt.removesuffix(":"))


def test_a_margin_above_zero_means_that_generate_answers_rightly() -> None:
    model = new_model(0).eval()
    words = skills.CHECK[:8]
    found = margins(model, "base", words)
    assert found.shape == (8,)
    assert (found < 0).all()  # it has learned nothing
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[EOS] = 1.0
    # All other logits are 0 now, so that no letter is ahead of another.
    assert (margins(model, "base", words) <= 0).all()


def test_what_is_saved_reads_back_in_bfloat16_with_its_facts(tmp_path: Path) -> None:
    model = new_model(0)
    save(model, recipe("cipher"), tmp_path, steps=2)
    again = load(tmp_path)
    assert again.dtype == torch.bfloat16
    before, after = weights(model), weights(again)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert '"rank": 8' in (tmp_path / "training.json").read_text()
    assert again.generation_config is not None
    assert again.generation_config.eos_token_id == EOS
    assert (tmp_path / "tokenizer.json").exists()


def test_a_model_that_does_not_learn_is_tried_again_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def no_luck(model: MixtralForCausalLM, tried: TrainingRecipe, report: object) -> None:
        seeds.append(tried.seed)
        raise NotLearned("no")

    monkeypatch.setattr(making, "train", no_luck)
    with pytest.raises(NotLearned):
        making.make_model(recipe("base"), tmp_path, lambda share: None)
    assert seeds == [0, 1, 2]
    assert not list(tmp_path.iterdir())
