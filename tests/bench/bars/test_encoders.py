"""The bars of encoder–decoders time whole answers, at once and apart, beside transformers."""

from serve_app.bench.bars.encoders import Asking, encoder_ratios
from serve_app.bench.weights.random_release import RandomRelease
from tests.support.checkpoints import tiny_config


def test_requests_of_all_models_are_timed_beside_each_ones_and_beside_transformers() -> None:
    config = tiny_config("switch_transformers").to_dict()
    told: list[int] = []
    found = encoder_ratios(
        RandomRelease(config, 2),
        Asking(sequences=2, inputs=5, answers=3, rounds=2, batch=4),
        lambda *progress: told.append(progress[1]),
    )
    assert told == [0, 1, 2]
    facts = found["encoders_packed_over_sequential"].facts
    assert min(facts.values()) > 0
    assert found["encoders_packed_over_sequential"].value > 0
    assert found["encoders_over_transformers"].value > 0
