"""The whole endpoint against its engine, for real and small."""

from dataclasses import replace

import pytest

from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.bars.compared import bars_subject
from serve_app.bench.bars.streaming import http_over_engine
from tests.bench.tiny import tiny_config


@pytest.mark.ray
@pytest.mark.slow
def test_an_endpoint_is_held_against_its_engine_and_loses_nothing() -> None:
    subject = bars_subject()
    config = tiny_config(vocab_size=8192)
    engine = replace(subject.ground.engine, kv_tokens=1024)
    ground = replace(subject.ground, source=RandomSpec(config, 4, "bfloat16"), engine=engine)
    stages: list[tuple[str, int, int]] = []
    found = http_over_engine(
        replace(subject, ground=ground, tokens=8),
        rounds=1,
        on_progress=lambda *stage: stages.append(stage),
    )
    assert 0.0 < found.value < 2.0
    assert found.facts["lost"] == 0
    assert 0.0 < found.facts["client_processor_share"] < 1.0
    assert found.value == pytest.approx(
        found.facts["http_tokens_per_s"] / found.facts["engine_tokens_per_s"]
    )
    assert stages[0] == ("pool", 0, 2)
    assert stages[-1] == ("http", 2, 2)
