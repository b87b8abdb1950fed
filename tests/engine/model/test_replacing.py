"""Modules of a packed model read a config whose fields were looked up once."""

import pytest
from torch import nn
from transformers import MixtralConfig, MixtralModel

from serve_app.engine.model.replacing import Remembered, remember_configs
from tests.support.checkpoints import tiny_model


class Config(MixtralConfig):
    num_lookups = 0

    @property
    def slow(self) -> int:
        Config.num_lookups += 1
        return 7


def test_a_field_is_looked_up_once() -> None:
    config = Remembered(Config())
    assert [config.slow, config.slow] == [7, 7]
    assert Config.num_lookups == 1
    with pytest.raises(AttributeError, match="nothing"):
        _ = config.nothing


def test_models_keep_their_config_and_modules_inside_remember_it() -> None:
    model = tiny_model("mixtral", 0)
    wanted = model.config._attn_implementation
    remember_configs(model)
    inside = [m for m in model.modules() if isinstance(vars(m).get("config"), Remembered)]
    assert len(inside) >= 2 * len(model.model.layers), "attention and experts of each layer"
    assert {m.config._attn_implementation for m in inside} == {wanted}
    assert isinstance(model.config, MixtralConfig)
    assert isinstance(model.model.config, MixtralConfig)
    remember_configs(nn.Linear(1, 1))  # has none
    assert isinstance(model.model, MixtralModel)
