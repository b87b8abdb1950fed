import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from representation.architecture.config import plain_config
from representation.step_reads import SEQUENCES, TOP_1, DecodeStep, LayerParts, bytes_read
from tests.support.served import SERVED

Expert = tuple[tuple[int, ...], tuple[int, ...]]
Models = list[list[Expert]]


def experts(num_slots: int, num_residuals: int) -> st.SearchStrategy[Expert]:
    slot = st.sets(st.integers(0, num_slots - 1), min_size=1, max_size=2).map(tuple)
    residuals = st.sets(st.integers(0, num_residuals - 1), max_size=2).map(tuple)
    return st.tuples(slot, residuals)


def by_every_choice(layer: LayerParts, step: DecodeStep) -> float:
    """The mean of bytes over all ways in which the tokens may choose experts."""
    num_experts = len(layer.models[0])
    choices = list(itertools.combinations(range(num_experts), step.experts_per_token))
    tokens = [model for model in layer.models for _ in range(step.sequences)]
    total = 0.0
    for chosen in itertools.product(choices, repeat=len(tokens)):
        used = [tokens[i][e] for i, token in enumerate(chosen) for e in token]
        total += sum(layer.slots[slot] for slot in {one for slot, _ in used for one in slot})
        total += sum(layer.residuals[r] for r in {r for _, own in used for r in own})
    return total / math.pow(len(choices), len(tokens))


@given(st.lists(st.lists(experts(3, 4), min_size=3, max_size=3), min_size=1, max_size=2))
@settings(deadline=None, max_examples=30)
def test_bytes_are_the_mean_over_all_ways_to_choose_experts(models: Models) -> None:
    layer = LayerParts((100_000, 30_000, 70_000), (1000, 5000, 2000, 4000), models)
    for step in (DecodeStep(1, 2), DecodeStep(2, 2), DecodeStep(2, 1)):
        expected = by_every_choice(layer, step)
        assert math.isclose(bytes_read([layer], step), expected, abs_tol=1)
        assert math.isclose(bytes_read([layer] * 3, step), 3 * expected, abs_tol=2)


def test_a_token_of_every_expert_reads_everything_and_no_token_nothing() -> None:
    layer = LayerParts((7, 9), (5,), [[((0,), ()), ((1,), (0,))]])
    assert bytes_read([layer], DecodeStep(2, 1)) == 21
    assert bytes_read([layer], DecodeStep(8, 1)) == 21
    assert bytes_read([layer], DecodeStep(1, 0)) == 0
    assert bytes_read([], DecodeStep()) == 0


def test_what_models_share_is_read_once() -> None:
    own = LayerParts((100,) * 4, (), [[((0,), ()), ((1,), ())], [((2,), ()), ((3,), ())]])
    shared = LayerParts((100, 100), (), [[((0,), ()), ((1,), ())]] * 2)
    step = DecodeStep(2)
    assert bytes_read([own], step) == 2 * bytes_read([shared], step) == 400


@pytest.mark.parametrize("model_type", SERVED)
def test_every_served_config_says_how_many_experts_a_token_goes_to(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    names = ("num_experts_per_tok", "top_k_experts", "moe_topk")
    text = config.get_text_config()
    said = next((n for n in (getattr(text, name, None) for name in names) if n), 2)
    said = 1 if model_type in TOP_1 else said
    has_encoder = bool(config.is_encoder_decoder)
    assert DecodeStep.of(plain_config(config)) == DecodeStep(said, SEQUENCES, has_encoder)


def test_experts_of_an_encoder_are_read_in_no_step() -> None:
    step = DecodeStep.of({"model_type": TOP_1[0]})
    assert not step.reads("encoder.block.1.layer.1.mlp.experts")
    assert step.reads("decoder.block.1.layer.2.mlp.experts")
    assert DecodeStep.of({"model_type": "mixtral"}).reads("encoder.layers.0.mlp.experts")


def test_a_config_that_does_not_say_has_two_experts_a_token() -> None:
    assert DecodeStep.of({}).experts_per_token == 2
    assert DecodeStep.of({"num_experts_per_tok": None}).experts_per_token == 2


def test_of_a_wrapper_its_text_model_says() -> None:
    assert DecodeStep.of({"text_config": {"top_k_experts": 8}}).experts_per_token == 8
