"""What a cold backbone costs is measured with every load a copy from the host."""

import pytest

from serve_app.bench.step.cold import Cold, cold_over_resident_ttft, running_tpot_during_load
from serve_app.bench.weights.random_release import RandomRelease
from tests.bench.tiny import tiny_config

FEW = Cold(prompt=8, places=2, loads=3, sequences=2, steps=2)


def test_cold_first_tokens_and_running_tokens_are_measured() -> None:
    source = RandomRelease(tiny_config(), 3)
    first = cold_over_resident_ttft(source, FEW)
    assert first.value > 0
    assert first.facts["load_bytes_s"] > 0
    assert first.facts["host_to_device_bytes_s"] > 0
    beside = running_tpot_during_load(source, FEW)
    assert beside.value > 0
    assert beside.facts["num_steps_beside"] >= FEW.loads


def test_nothing_is_cold_where_every_model_has_a_place() -> None:
    with pytest.raises(ValueError, match="2 places for 2 models: none is cold"):
        cold_over_resident_ttft(RandomRelease(tiny_config(), 2), FEW)
