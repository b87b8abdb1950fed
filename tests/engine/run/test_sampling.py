"""How the next token is chosen."""

from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.device.cores import on_cores
from serve_app.engine.request import Sampling
from serve_app.engine.run.draws import filtered, inverted, uniform
from serve_app.engine.run.sampling import SamplingRow, is_plain, score
from serve_app.engine.run.sampling import sample as sample_on_device

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 2.9, float("-inf")])


def row(sampling: Sampling, tokens: tuple[int, ...] = (0,), prompt: int = 1) -> SamplingRow:
    return SamplingRow(sampling, tokens, prompt, frozenset())


def sample(logits: torch.Tensor, rows: list[SamplingRow]) -> list[int]:
    return [int(token) for token in sample_on_device(logits, rows).tolist()]


def draws(sampling: Sampling, logits: torch.Tensor = LOGITS, count: int = 4000) -> Counter[int]:
    rows = [row(replace(sampling, seed=seed)) for seed in range(count)]
    return Counter(sample(logits.expand(count, -1), rows))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert sample(LOGITS[None], [row(Sampling(temperature=0))]) == [1]


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-6, 1e-5])
def test_the_smallest_temperatures_take_the_likeliest_too(temperature: float) -> None:
    assert set(draws(Sampling(temperature=temperature), count=50)) == {1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_models_probabilities(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, dim=0)
    found = draws(Sampling(temperature=temperature))
    for token, probability in enumerate(expected.tolist()):
        assert abs(found[token] / 4000 - probability) < 0.035
    assert found[5] == 0


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(draws(Sampling(top_k=2))) == {1, 4}
    assert set(draws(Sampling(top_k=1))) == {1}


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    probabilities = torch.softmax(LOGITS, dim=0)
    just_two = float(probabilities[1] + probabilities[4])
    assert set(draws(Sampling(top_p=just_two - 0.01))) == {1, 4}
    assert set(draws(Sampling(top_p=just_two + 0.01))) == {1, 4, 2}
    assert set(draws(Sampling(top_p=1e-6))) == {1}


def test_min_p_is_relative_to_the_likeliest() -> None:
    assert set(draws(Sampling(min_p=0.5))) == {1, 4}
    assert set(draws(Sampling(min_p=1.0))) == {1}


def kept(probabilities: list[float], option: Sampling) -> set[int]:
    """What the filters keep, one after another."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    order = order[: option.top_k or None]
    total, reached = sum(probabilities[token] for token in order), 0.0
    found: set[int] = set()
    for token in order:
        if not found or reached < option.top_p * total:
            found.add(token)
        reached += probabilities[token]
    return {token for token in found if probabilities[token] >= option.min_p * max(probabilities)}


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_filters_keep_what_they_keep_one_after_another(sharpness: float) -> None:
    sets = list(product([0, 1, 5, 200], [0.2, 0.73, 1.0], [0.0, 0.11]))
    options = [Sampling(top_k=k, top_p=p, min_p=m) for k, p, m in sets]
    logits = torch.randn((len(options), 140), generator=torch.Generator().manual_seed(3))
    together = sample_filtered(logits * sharpness, options)
    for index, option in enumerate(options):
        alone = sample_filtered(logits[index : index + 1] * sharpness, [option])
        assert torch.equal(together[index], alone[0])
        likely = torch.softmax(logits[index] * sharpness, dim=0).tolist()
        differing = set(alone[0].nonzero()[:, 0].tolist()) ^ kept(likely, option)
        assert all(likely[token] < 1e-5 for token in differing), "beyond what rounding explains"


def sample_filtered(logits: torch.Tensor, options: list[Sampling]) -> torch.Tensor:
    return filtered(torch.softmax(logits, dim=-1), options)


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
@pytest.mark.parametrize("option", [Sampling(top_p=0.6), Sampling(top_p=0.05), Sampling(min_p=0.4)])
def test_attempts_draw_all_that_filters_keep_as_often_as_it_is_likely(
    option: Sampling, sharpness: float
) -> None:
    logits = torch.randn((1, 40), generator=torch.Generator().manual_seed(5)) * sharpness
    kept_part = sample_filtered(logits, [option])[0]
    expected = kept_part / kept_part.sum()
    found = draws(option, logits[0], count=6000)
    assert set(found) <= set(expected.nonzero()[:, 0].tolist())
    for token, share in enumerate(expected.tolist()):
        assert abs(found[token] / 6000 - share) < 0.03


def test_logits_that_are_no_numbers_end_every_attempt() -> None:
    logits = torch.full((3, 200), float("nan"))
    logits[1:, :7] = 0.0
    options = [Sampling(top_p=0.5), Sampling(top_p=0.5, min_p=0.2), Sampling(top_p=0.0)]
    assert len(sample(logits, [row(option) for option in options])) == 3


def test_on_a_cpu_tokens_are_chosen_on_the_threads_own_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(logits: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.tensor([torch.get_num_threads()])

    monkeypatch.setattr("serve_app.engine.run.sampling._chosen", chosen)
    with on_cores(2):
        assert sample(LOGITS[None], [row(Sampling())]) == [1]
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("largest", [3.5, 0.0, -0.0, -2.5, float("inf"), float("nan")])
def test_the_likeliest_of_bfloat16_is_that_of_their_values(largest: float) -> None:
    logits = -torch.rand((4, 300), generator=torch.Generator().manual_seed(6)) * 50 - 3
    logits[torch.arange(4), torch.tensor([7, 0, 299, 150])] = largest
    found = sample(logits.to(torch.bfloat16), [row(Sampling(temperature=0))] * 4)
    assert found == [7, 0, 299, 150]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_known_to_take_the_likeliest_take_it(dtype: torch.dtype) -> None:
    logits = torch.randn((9, 300), generator=torch.Generator().manual_seed(4)).to(dtype)
    plain = row(Sampling(temperature=0))._replace(is_plain=True)
    assert sample(logits, [plain] * 9) == sample(logits, [row(Sampling(temperature=0))] * 9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"logprobs": 3, "top_p": 0.5, "top_k": 3}, True),
        ({"temperature": 0.5}, False),
        ({"presence_penalty": 0.1}, False),
        ({"frequency_penalty": 0.1}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"logit_bias": ((1, 1.0),)}, False),
    ],
)
def test_settings_are_plain_if_nothing_but_the_models_logits_counts(
    options: dict[str, Any], expected: bool
) -> None:
    assert is_plain(replace(Sampling(temperature=0), **options)) == expected


def test_many_rows_are_chosen_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn((9, 300), generator=torch.Generator().manual_seed(4))
    rows = [row(Sampling(seed=at, temperature=at % 3, top_p=0.8)) for at in range(9)]
    together = sample(logits, rows)
    monkeypatch.setattr("serve_app.engine.run.sampling.BLOCK_LOGITS", 700)
    assert sample(logits, rows) == together
    assert sample(logits[:0], []) == []


@pytest.mark.parametrize("size", [1, 127, 128, 129, 1000])
def test_every_share_of_the_whole_is_some_likely_tokens(size: int) -> None:
    probabilities = torch.softmax(torch.randn((1, size)) * 4, dim=-1)
    probabilities[:, torch.rand(size) < 0.5] = 0.0
    probabilities[0, size // 2] = 0.25
    numbers = torch.linspace(0, 1 - 2**-53, 300, dtype=torch.float64).unsqueeze(1)
    found = inverted(probabilities.expand(300, -1), numbers)
    assert bool((probabilities[0, found] > 0).all())
    assert torch.equal(found, found.sort().values)
    ends = probabilities[0].double().cumsum(dim=0)
    wanted = (numbers * ends[-1])[:, 0]
    assert bool((ends[found] >= wanted - 1e-6).all())
    assert bool((ends[found] - probabilities[0, found] <= wanted + 1e-6).all())


def test_biases_and_bans_change_the_choice() -> None:
    greedy = Sampling(temperature=0)
    biased = replace(greedy, logit_bias=((3, 100.0), (99, 5.0)))
    assert sample(LOGITS[None], [row(biased)]) == [3]
    banned = SamplingRow(greedy, (0,), 1, frozenset({1, 4, 77}))
    assert sample(LOGITS[None], [banned]) == [2]


def test_penalties_count_generated_tokens_and_repetition_the_prompt_too() -> None:
    greedy = Sampling(temperature=0)
    after = (1, 4)  # prompt 1, generated 4
    assert sample(LOGITS[None], [row(replace(greedy, presence_penalty=2.0), after)]) == [1]
    seen = (0, 1)
    assert sample(LOGITS[None], [row(replace(greedy, presence_penalty=0.5), seen)]) == [4]
    often = (0, 1, 1, 1)
    assert sample(LOGITS[None], [row(replace(greedy, frequency_penalty=0.05), often)]) == [4]
    assert sample(LOGITS[None], [row(replace(greedy, repetition_penalty=1.1), (1,))]) == [4]
    negative = torch.tensor([[-1.0, -1.05]])
    assert sample(negative, [row(replace(greedy, repetition_penalty=2.0), (0,))]) == [1]


def test_the_logits_are_left_as_they_are() -> None:
    logits = LOGITS[None].clone()
    sample(logits, [row(Sampling(logit_bias=((1, -50.0),), temperature=0.7, top_p=0.5))])
    assert torch.equal(logits, LOGITS[None])


@settings(max_examples=60, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**63), min_size=1, max_size=6),
    which=st.integers(0, 5),
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_p=st.sampled_from([0.3, 1.0]),
)
def test_a_row_is_drawn_the_same_in_any_company(
    seeds: list[int], which: int, temperature: float, top_p: float
) -> None:
    generator = torch.Generator().manual_seed(seeds[0] % 1000)
    logits = torch.randn((len(seeds), 50), generator=generator) * 3
    rows = [row(Sampling(seed=s, temperature=1.0, top_k=7)) for s in seeds]
    index = which % len(seeds)
    rows[index] = row(Sampling(seed=seeds[index], temperature=temperature, top_p=top_p))
    together = sample(logits, rows)
    assert together[index] == sample(logits[index : index + 1], [rows[index]])[0]


@given(st.integers(-(2**63), 2**63), st.integers(0, 10**6))
def test_random_numbers_depend_on_seed_and_position_alone(seed: int, position: int) -> None:
    number = uniform(seed, position)
    assert 0 <= number < 1
    assert number == uniform(seed, position)
    assert number != uniform(seed, position + 1)


def test_log_probabilities_are_the_models_own() -> None:
    scores = score(LOGITS[None].expand(2, -1), torch.tensor([2, 3]), 3)
    found = scores.logprobs([3, 0])
    expected = torch.log_softmax(LOGITS, dim=0)
    assert found[0].logprob == pytest.approx(expected[2].item())
    assert [token for token, _ in found[0].top] == [1, 4, 2]
    assert found[1].top == ()


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"presence_penalty": 1.5, "logit_bias": ((3, 0.5),)},
        {"frequency_penalty": 0.9, "temperature": 0.0},
        {"temperature": 1.2, "top_p": 0.9},
    ],
)
def test_a_token_that_only_the_device_knows_counts_as_one_that_is_known(
    options: dict[str, Any],
) -> None:
    logits = torch.randn((12, 9), generator=torch.Generator().manual_seed(1))
    before = torch.randint(9, (12,), generator=torch.Generator().manual_seed(2))
    known, pending = [], []
    for at in range(12):
        chosen, tokens = replace(Sampling(seed=at), **options), (at % 9, 3, 3)
        last = int(before[11 - at])
        known.append(SamplingRow(chosen, (*tokens, last), 1, frozenset()))
        pending.append(SamplingRow(chosen, tokens, 1, frozenset(), pending=11 - at))
    pending[5] = known[5]
    assert sample_on_device(logits, pending, before).tolist() == sample(logits, known)


def test_nothing_waits_for_the_device() -> None:
    """Tensors of the meta device have no values, so whoever asked for one would fail."""
    logits, before = (
        torch.empty((5, 9), device="meta"),
        torch.empty(5, dtype=torch.int64).to("meta"),
    )
    options = [
        Sampling(temperature=0, repetition_penalty=1.5),
        Sampling(top_p=0.9, presence_penalty=1.0, logit_bias=((3, 1.0),)),
        Sampling(top_k=4, frequency_penalty=1.0),
        Sampling(min_p=0.1),
    ]
    rows = [SamplingRow(each, (1, 2), 1, frozenset({4}), pending=1) for each in options]
    rows.append(row(Sampling()))
    tokens = sample_on_device(logits, rows, before)
    assert (tokens.device.type, tokens.shape) == ("meta", (5,))
    assert score(logits, tokens, 3).best.shape == (5, 3)
