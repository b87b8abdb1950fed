"""How fast codes are read, and how often compiled code is called for a layer."""

import pytest

from serve_app.bench.bars.expert_products import codes_read_over_copied, launches_a_layer
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.device.native.library import library
from tests.bench.tiny import tiny_config

pytestmark = pytest.mark.skipif(
    library() is None, reason="nothing was compiled, or this CPU has no AVX2"
)


def test_reading_codes_is_divided_by_copying_them() -> None:
    found = codes_read_over_copied(num_matrices=2, side=128)
    rates = found.facts
    assert found.value == pytest.approx(rates["read_bytes_s"] / rates["copied_bytes_s"])
    assert found.value > 0


def test_layers_of_one_format_and_of_twelve_are_one_call_each() -> None:
    found = launches_a_layer(
        lambda slots, residuals: RandomRelease(tiny_config(), 2, parts=slots, residuals=residuals)
    )
    assert found.facts == {"1_formats": 1.0, "12_formats": 1.0}
    assert found.value == 1.0
