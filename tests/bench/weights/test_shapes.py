"""Named shapes are those of the published models."""

import pytest
import torch

from representation.architecture.config import config_of
from representation.architecture.skeleton import meta_model
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.bench.weights.shapes import SHAPES
from serve_app.engine.config import EngineConfig
from serve_app.engine.memory import plan_memory


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_as_many_parameters_as_were_published(name: str) -> None:
    model = meta_model(config_of(SHAPES[name].config()), torch.bfloat16)
    assert model.num_parameters() == pytest.approx(SHAPES[name].parameters, rel=0.002)


@pytest.mark.parametrize("name", SHAPES)
def test_the_engine_has_room_for_two_layers_of_a_shape(name: str) -> None:
    plan = plan_memory(
        RandomRelease(SHAPES[name].config(2), 2), EngineConfig(device="cpu", kv_tokens=64)
    )
    assert plan.num_backbones == 2
    assert plan.pool_bytes > 0
