import math

import pytest
import torch

from consolidation.evaluation.baselines.bitdelta import BitDelta, DQrelo
from consolidation.evaluation.baselines.emr import Emr
from consolidation.evaluation.baselines.private import Private
from consolidation.evaluation.baselines.rank_alone import RankAlone
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.evaluation.methods import Method

MATRICES = ("gate_up_proj", "down_proj")


def with_base(subjects: Subjects) -> list[Method]:
    return [Emr(subjects), BitDelta(subjects), DQrelo(subjects), RankAlone(subjects, 4)]


def error(method: Method, subjects: Subjects, model: str) -> float:
    """Squared error of all matrices, as a part of that of the base's."""
    left = lost = 0.0
    for layer in range(subjects.num_layers):
        found, own = method.experts(model, layer), subjects.model(model, layer)
        base = subjects.base_experts(layer)
        for name in MATRICES:
            left += float((found[name] - own[name]).square().sum())
            lost += float((base[name] - own[name]).square().sum())
    return left / lost


def test_a_model_with_the_base_s_experts_keeps_them_exactly(subjects: Subjects) -> None:
    for method in with_base(subjects):
        for layer in range(subjects.num_layers):
            found, own = method.experts("frozen", layer), subjects.model("frozen", layer)
            assert all(torch.equal(found[name], own[name]) for name in own), method.name


def test_every_model_is_nearer_to_itself_than_the_base_is(subjects: Subjects) -> None:
    for method in with_base(subjects):
        assert error(method, subjects, "one") < 0.95, method.name


def test_signs_leave_of_normal_noise_what_theory_says(subjects: Subjects) -> None:
    assert error(BitDelta(subjects), subjects, "one") == pytest.approx(1 - 2 / math.pi, abs=0.02)


def test_a_low_rank_of_what_signs_leave_is_added_to_them(subjects: Subjects) -> None:
    both, signs_alone = DQrelo(subjects), BitDelta(subjects)
    assert error(both, subjects, "one") < 0.95 * error(signs_alone, subjects, "one")
    for name in MATRICES:
        added = both.experts("one", 0)[name] - signs_alone.experts("one", 0)[name]
        assert torch.linalg.matrix_rank(added[0], atol=1e-5) == 1


def test_a_full_rank_leaves_nothing(subjects: Subjects) -> None:
    assert error(RankAlone(subjects, 32), subjects, "one") < 1e-6


def test_biases_come_back_exactly_where_matrices_are_compressed(gpt_oss: Subjects) -> None:
    own = gpt_oss.model("one", 0)
    for method in (BitDelta(gpt_oss), DQrelo(gpt_oss), RankAlone(gpt_oss, 2), Private(gpt_oss, 4)):
        found = method.experts("one", 0)
        assert {name: t.shape for name, t in found.items()} == {n: t.shape for n, t in own.items()}
        assert torch.equal(found["down_proj_bias"], own["down_proj_bias"])
        assert not torch.equal(found["down_proj"], own["down_proj"])


def test_more_bits_leave_less_by_the_factor_that_theory_says(subjects: Subjects) -> None:
    three, four, eight = (error(Private(subjects, bits), subjects, "one") for bits in (3, 4, 8))
    assert three > 3 * four
    assert four > 200 * eight


def test_private_experts_are_rounded_along_input_features(gpt_oss: Subjects) -> None:
    own = gpt_oss.model("one", 0)["down_proj"]  # (E, I, O)
    found = Private(gpt_oss, 3).experts("one", 0)["down_proj"]
    # 24 input features are one group: at most 8 values for each output.
    assert own.shape[1] == 24
    assert max(len(column.unique()) for column in found[0].T) <= 8


def test_bytes_are_those_of_what_has_to_be_kept(subjects: Subjects) -> None:
    # Three models; 2 layers of 4 experts, 48 x 32 and 32 x 24 weights, in float32.
    weights = 8 * (48 * 32 + 32 * 24)
    assert subjects.one_model_bytes == 4 * weights
    assert Emr(subjects).expert_bytes == 8 * weights + 3 * (weights // 8 + 2 * 2 * 4)
    assert BitDelta(subjects).expert_bytes == 4 * weights + 3 * (weights // 8 + 8 * 2 * 4)
    factors = 8 * 4 * (48 + 32 + 32 + 24)
    assert DQrelo(subjects).expert_bytes == BitDelta(subjects).expert_bytes + 3 * factors
    assert RankAlone(subjects, 4).expert_bytes == 4 * weights + 3 * 4 * factors
    scales = 2 * 8 * (48 + 32)
    assert Private(subjects, 4).expert_bytes == 3 * (weights // 2 + scales)


def test_own_biases_are_counted_for_every_model(gpt_oss: Subjects) -> None:
    biases = 12 * (48 + 32) * 4
    weights = 12 * (48 * 32 + 32 * 24)
    one = gpt_oss.one_model_bytes
    assert one == 4 * weights + biases
    own = weights // 8 + 12 * 2 * 4 + biases
    assert BitDelta(gpt_oss).expert_bytes == one + 3 * own
