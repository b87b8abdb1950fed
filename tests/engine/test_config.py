"""Settings of an engine, as values and as text."""

import dataclasses
from typing import Any

import pytest

from serve_app.engine.config import SETTINGS, EngineConfig
from serve_app.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"device_memory": "24GiB"}, {"device_memory": 24 << 30}),
        ({"host_memory": "500MB"}, {"host_memory": 500_000_000}),
        ({"device_memory": "4096"}, {"device_memory": 4096}),
        ({"kv_tokens": "4096", "num_places": " 2 "}, {"kv_tokens": 4096, "num_places": 2}),
        ({"max_model_wait_s": "0.25"}, {"max_model_wait_s": 0.25}),
        ({"max_model_wait_s": 3}, {"max_model_wait_s": 3.0}),
        ({"prefix_cache": "false"}, {"prefix_cache": False}),
        ({"cuda_graphs": "OFF", "plan_ahead": "1"}, {"cuda_graphs": False, "plan_ahead": True}),
    ],
)
def test_a_text_means_what_the_value_does(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert EngineConfig(**given) == EngineConfig(**meant)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("device", "tpu", "'tpu' is not one of auto, cpu, cuda"),
        ("dtype", "float16", "'float16' is not one of auto, float32, bfloat16"),
        ("device_memory", "24 apples", "'24 apples' is not a size: give bytes, or 24GiB"),
        ("device_memory", 0, "0 is not more than 0 bytes"),
        ("device_memory", -(2**30), f"{-(2**30)} is not more than 0 bytes"),
        ("host_memory", True, "True is not a size"),
        ("kv_tokens", 0.5, "0.5 is not a whole number"),
        ("kv_tokens", "many", "'many' is not a whole number"),
        ("num_places", 0, "0 is less than 1"),
        ("step_tokens", "-3", "'-3' is less than 1"),
        ("step_tokens", None, "None is not a whole number"),
        ("max_sequences", True, "True is not a whole number"),
        ("max_model_wait_s", 0, "0 is not more than 0 seconds"),
        ("max_model_wait_s", "nan", "'nan' is not a number of seconds"),
        ("prefix_cache", "perhaps", "'perhaps' is neither true nor false"),
        ("prefix_cache", None, "None is neither true nor false"),
    ],
)
def test_a_wrong_value_is_refused_with_the_field_and_what_it_may_be(
    field: str, value: Any, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: {why}"):
        EngineConfig(**{field: value})


def test_what_is_unset_by_default_may_be_given_as_unset_and_says_what_that_means() -> None:
    for field in dataclasses.fields(EngineConfig):
        if field.default is None:
            unset: dict[str, Any] = {field.name: None}
            assert getattr(EngineConfig(**unset), field.name) is None
        assert (field.default is None) == bool(SETTINGS[field.name].unset), field.name


def test_nothing_is_changed_once_it_was_checked() -> None:
    config = EngineConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.step_tokens = 0  # type: ignore[misc]
    with pytest.raises(ConfigError, match="step_tokens: 0 is less than 1"):
        dataclasses.replace(config, step_tokens=0)
