"""A model's defaults, and seeds of choices."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.serving.replica.defaults import ModelDefaults, choice_seed


def test_end_tokens_are_those_that_generate_takes() -> None:
    for generation, config, tokenizer, expected in (
        ({"eos_token_id": [4, 5]}, {"eos_token_id": 6}, 7, {4, 5}),
        ({"eos_token_id": 4}, {"eos_token_id": 6}, 7, {4}),
        ({"eos_token_id": None}, {"eos_token_id": 6}, 7, {6}),
        ({}, {"text_config": {"eos_token_id": 6}}, 7, {6}),
        ({}, {}, 7, {7}),
        ({}, {}, None, set()),
    ):
        assert ModelDefaults.of(config, generation, tokenizer).stop_token_ids == expected


def test_nothing_said_is_openais_default() -> None:
    defaults = ModelDefaults.of({}, {"temperature": None}, None)
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (1.0, 1.0, 0)
    assert defaults.max_new_tokens is None


@given(st.integers(-(2**63), 2**64 - 1), st.integers(1, 40))
def test_seeds_of_choices_differ_and_follow_from_the_first(seed: int, n: int) -> None:
    seeds = [choice_seed(seed, choice) for choice in range(n)]
    assert len(set(seeds)) == n
    assert seeds == [choice_seed(seed, choice) for choice in range(n)]
    assert all(0 <= each < 2**63 for each in seeds)
