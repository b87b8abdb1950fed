import pytest
import torch

from consolidation.evaluation.baselines import dare, task_arithmetic, ties
from consolidation.evaluation.baselines.average import Average
from consolidation.evaluation.baselines.base_experts import BaseExperts
from consolidation.evaluation.baselines.round_robin import RoundRobin
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.methods import Method


def merged(subjects: Subjects) -> list[Method]:
    return [
        Average(subjects),
        BaseExperts(subjects),
        RoundRobin(subjects),
        task_arithmetic.task_arithmetic(subjects),
        ties.ties(subjects),
        dare.dare(subjects),
    ]


def test_merged_experts_are_the_same_for_every_model_and_take_the_bytes_of_one(
    subjects: Subjects,
) -> None:
    for method in merged(subjects):
        assert method.expert_bytes == subjects.models["one"].expert_bytes
        first, *others = [method.experts(name, 1) for name in subjects.names]
        for other in others:
            assert all(torch.equal(first[name], other[name]) for name in first)


def test_merged_experts_have_the_shapes_of_the_module(gpt_oss: Subjects) -> None:
    wanted = {name: tensor.shape for name, tensor in gpt_oss.model("one", 0).items()}
    assert "down_proj_bias" in wanted
    for method in merged(gpt_oss):
        found = method.experts("two", 0)
        assert {name: tensor.shape for name, tensor in found.items()} == wanted


def test_the_average_is_the_mean_over_models(subjects: Subjects) -> None:
    found = Average(subjects).experts("one", 1)["down_proj"]
    models = [subjects.model(name, 1)["down_proj"] for name in subjects.names]
    torch.testing.assert_close(found, torch.stack(models).mean(0))


def test_task_arithmetic_adds_up_what_tuning_added(subjects: Subjects) -> None:
    base = subjects.base_experts(0)["down_proj"]
    models = [subjects.model(name, 0)["down_proj"] for name in subjects.names]
    wanted = base + 0.4 * sum(model - base for model in models)
    found = task_arithmetic.task_arithmetic(subjects).experts("one", 0)["down_proj"]
    torch.testing.assert_close(found, wanted)


def test_ties_keeps_the_largest_fifth_elects_a_sign_and_takes_the_mean_of_what_has_it(
    subjects: Subjects,
) -> None:
    # Of ten weights, two of each model are left: 5, 4 and -9, 6.
    one = torch.tensor([5.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    two = torch.tensor([-9.0, 2.0, 6.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    found = ties.ties(subjects).rule(torch.stack([one, two]), torch.Generator())
    assert found.tolist() == [-9.0, 4.0, 6.0, 0, 0, 0, 0, 0, 0, 0]
    same = ties.ties(subjects).rule(torch.stack([one, one + 2]), torch.Generator())
    assert same.tolist() == [6.0, 5.0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_dare_drops_by_chance_what_it_makes_up_for_and_the_same_each_time(
    subjects: Subjects,
) -> None:
    method = dare.dare(subjects)
    differences = torch.ones(2, 100, 100)
    found = method.rule(differences, torch.Generator().manual_seed(0))
    assert sorted(set(found.flatten().tolist())) == pytest.approx([0.0, 0.8, 1.6])
    assert float(found.mean()) == pytest.approx(0.8, rel=0.02)
    assert torch.equal(
        method.experts("one", 1)["gate_up_proj"], method.experts("two", 1)["gate_up_proj"]
    )


def test_round_robin_takes_models_in_turn_where_experts_are_alike_first(
    subjects: Subjects,
) -> None:
    positions = []
    for layer in range(subjects.num_layers):
        stacks = {
            name: torch.cat([t.flatten(1) for t in subjects.model(name, layer).values()], 1)
            for name in subjects.names
        }
        for index in range(subjects.num_experts(layer)):
            frozen, one, two = (stacks[name][index] for name in subjects.names)
            apart = (one - two).norm() + (one - frozen).norm() + (two - frozen).norm()
            positions.append((float(apart), layer, index))
    method = RoundRobin(subjects)
    for turn, (_, layer, index) in enumerate(sorted(positions)):
        owner = subjects.names[turn % 3]
        found = method.experts("one", layer)
        wanted = subjects.model(owner, layer)
        assert all(torch.equal(found[name][index], wanted[name][index]) for name in wanted)
