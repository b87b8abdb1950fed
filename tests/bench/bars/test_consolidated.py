"""Steps of packed experts against steps of dense ones."""

import pytest

from serve_app.bench.bars.consolidated import SLOTS, ratios_to_dense, steps_over_dense
from serve_app.bench.bars.decoding import Decoding
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.device.native.library import library
from tests.bench.tiny import tiny_config

FEW = Decoding(sequences=2, context=4, steps=2, rounds=2, step_tokens=64)


def test_each_round_is_divided_by_its_own_dense_steps() -> None:
    seconds = {
        (name, alone): [float(n + alone) for n in range(4, 7)] for name in SLOTS for alone in (0, 1)
    }
    steps = {(name, bool(alone)): each for (name, alone), each in seconds.items()}
    found = ratios_to_dense(
        steps | {("four_bits", False): [2.0, 10.0, 3.0], ("four_bits", True): [10.0, 3.0, 14.0]},
        steps | {("four_bits", False): [1.0, 5.0, 2.0], ("four_bits", True): [1.0, 3.0, 7.0]},
    )
    assert found["four_bits_products_over_dense"].value == 1 / 3  # of 1/4, 5/5 and 2/6
    assert found["four_bits_products_alone_over_dense"].value == 0.5  # of 1/5, 3/6 and 7/7
    assert found["four_bits_over_dense"].value == 0.5  # of 2/4, 10/5 and 3/6
    assert found["four_bits_alone_over_dense"].value == 2.0  # of 10/5, 3/6 and 14/7
    assert found["one_size_over_dense"].value == 1.0


def test_experts_that_no_compiled_code_computes_have_no_ratio() -> None:
    times = {(name, alone): [0.0] for name in SLOTS for alone in (False, True)}
    with pytest.raises(ValueError, match="experts were not computed by compiled code"):
        ratios_to_dense({key: [1.0] for key in times}, times)


def test_every_format_is_timed_for_all_sequences_and_for_one() -> None:
    if library() is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    found = steps_over_dense(
        lambda slots, residuals: RandomRelease(tiny_config(), 2, parts=slots, residuals=residuals),
        FEW,
    )
    assert len(found["one_size_over_dense"].facts) == 4 * len(SLOTS)
    assert all(one.value > 0 for one in found.values())
