"""Tiny models of every architecture that is served answer as transformers has them answer."""

import pytest
from transformers import CONFIG_MAPPING

from tests.engine.running import SMALL, answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import ARCHITECTURES, tiny_model
from tests.support.served import AT_ONCE, SERVED, served_fields
from tests.support.sources import MemorySource


@pytest.mark.slow
@pytest.mark.parametrize("model_type", [name for name in SERVED if name not in ARCHITECTURES])
def test_two_models_answer_as_each_does_alone(model_type: str) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    fields = served_fields(model_type)
    models = {name: tiny_model(model_type, seed, **fields) for name, seed in (("a", 1), ("b", 2))}
    step_tokens = 40 if model_type in AT_ONCE else SMALL.step_tokens
    engine = engine_of(MemorySource("r1", models), step_tokens=step_tokens)
    requests = greedy_requests(models, [5, 20], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()
