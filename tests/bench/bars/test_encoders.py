"""The bars of encoder–decoders time whole answers, at once and apart, beside transformers."""

import pytest

from serve_app.bench.bars.encoders import Asking, encoder_ratios
from serve_app.bench.weights.random_release import RandomRelease
from tests.support.checkpoints import tiny_config


def test_requests_of_all_models_are_timed_beside_each_ones_and_beside_transformers() -> None:
    config = tiny_config("switch_transformers").to_dict()
    told: list[int] = []
    found = encoder_ratios(
        RandomRelease(config, 2),
        Asking(sequences=2, inputs=5, answers=3, rounds=1, batch=4),
        lambda *progress: told.append(progress[1]),
    )
    assert told == [0, 1]
    facts = found["encoders_packed_over_sequential"].facts
    packed = facts["packed_s"] / facts["sequential_s"]
    assert found["encoders_packed_over_sequential"].value == pytest.approx(packed)
    speed = facts["generate_s"] / facts["batch_s"]
    assert found["encoders_over_transformers"].value == pytest.approx(speed)
