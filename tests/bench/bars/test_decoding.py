"""What is made of timed decode steps; on a tiny release that every figure is there."""

import time

import pytest
import torch

from serve_app.bench.bars.decoding import Decoding, outside_forward_share, packed_ratios, ratios_of
from serve_app.bench.bars.profiling import product_seconds, profiled
from serve_app.bench.bars.scaling import Spot, growth, scaling
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.device.grouped import Groups
from serve_app.engine.device.native.library import native
from serve_app.engine.device.native.products import Products
from tests.bench.tiny import tiny_config

FEW = Decoding(sequences=2, context=4, steps=2, rounds=2, step_tokens=64)


def tiny(num_models: int, **others: int) -> RandomRelease:
    return RandomRelease(tiny_config(**others), num_models, dtype="float32")


def test_ratios_are_of_one_round_each_and_their_median_counts() -> None:
    seconds = {"packed": [3.0, 4.0, 9.0], "single": [2.0, 2.0, 3.0]}
    found = ratios_of(seconds | {"a": [2.0, 3.0, 4.0], "b": [2.0, 2.0, 5.0]}, ["a", "b"])
    assert found["packed_over_sequential"].value == 0.8  # of 3/4, 4/5 and 9/9
    assert found["packed_over_single"].value == 2.0  # of 1.5, 2 and 3
    assert found["packed_over_single"].facts["sequential_s"] == 5.0


def test_a_release_is_measured_packed_one_after_another_and_by_one_model() -> None:
    found = packed_ratios(tiny(2), FEW)
    rounds = found["packed_over_single"].facts["rounds"]
    assert {kind: len(each) for kind, each in rounds.items()} == {
        "packed": 2,
        "single": 2,
        "m0": 2,
        "m1": 2,
    }
    assert all(one.value > 0 for one in found.values())


def test_a_share_of_a_running_loop_is_outside_the_forward() -> None:
    found = outside_forward_share(tiny(2), Decoding(2, 4, steps=3, step_tokens=64))
    assert 0 < found.value < 1
    assert found.facts["steps"] >= 3


def test_growth_is_the_worse_of_two_curves_and_1_in_proportion_to_size() -> None:
    found = growth(
        {
            "places": [Spot(16, 3.0, 1.0, 2.0), Spot(64, 9.0, 1.0, 8.0)],
            "experts": [Spot(8, 3.0, 1.0, 2.0), Spot(64, 6.0, 2.0, 4.0)],
        }
    )
    assert found.value == 1.0
    assert found.facts["time_ratio_over_size_ratio"] == {"places": 1.0, "experts": 0.25}
    assert found.facts["curves"]["experts"][1]["outside_s"] == 4.0


def test_every_size_of_either_curve_is_profiled() -> None:
    found = scaling(
        tiny,
        lambda experts: tiny(2, num_local_experts=experts),
        places=(2, 4),
        experts=(4, 8),
        sequences=4,
        steps=1,
    )
    for spots in found.facts["curves"].values():
        for spot in spots:
            assert spot["outside_s"] == pytest.approx(spot["step_s"] - spot["products_s"])
            assert 0 < spot["products_s"] < spot["step_s"]


class Event:
    """As the profiler gives one, in nanoseconds."""

    def __init__(self, name: str, start: int, duration: int, *shapes: list[int]) -> None:
        self.name = lambda: name
        self.start_ns = lambda: start
        self.duration_ns = lambda: duration
        self.shapes = lambda: list(shapes)


def test_products_are_matrix_products_and_the_copies_of_their_weights() -> None:
    events = [
        Event("aten::mm", 700, 500, [16, 512], [512, 512]),
        Event("aten::copy_", 100, 200, [2048, 512], [2048, 512], []),
        Event("aten::_grouped_mm", 2000, 300, [16, 512], [8, 512, 512]),
        Event("aten::mm", 2100, 100, [16, 512], [512, 512]),  # within the other
        Event("aten::copy_", 3000, 9000, [16, 8192], [16, 8192], []),
        Event("aten::copy_", 3000, 9000, [], [], []),
        Event("aten::mul", 3000, 9000, [512, 512], [512, 512]),
    ]
    assert product_seconds(events) == pytest.approx((500 + 200 + 300) / 1e9)


def test_products_of_compiled_code_are_seen_by_the_profiler_too() -> None:
    code = native()
    if code is None:
        pytest.skip("nothing was compiled, or this CPU has no AVX2")
    products = Products(code)
    matrices = torch.ones((1, 2048, 512), dtype=torch.bfloat16)
    x, out = matrices[0, :64].clone(), torch.empty((64, 2048), dtype=torch.bfloat16)

    def run() -> float:
        began = time.perf_counter()
        products.multiply(x, matrices, Groups.counted([64]).bounds, None, out)
        return time.perf_counter() - began

    seconds, in_products = profiled(run)
    assert seconds / 2 < in_products <= seconds
    assert Products.multiply.__module__ == Products.__module__, "as it was"
