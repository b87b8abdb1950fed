"""Infinities of configs come through JSON that any reader knows."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from representation.architecture.config import config_of, plain_config
from representation.strange_floats import with_floats, without_floats
from tests.support.checkpoints import tiny_config

VALUES = st.recursive(
    st.floats(allow_nan=False) | st.integers() | st.text() | st.none(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = json.dumps(without_floats(value), allow_nan=False)
    assert with_floats(json.loads(text)) == value


def test_what_is_no_number_is_written_too() -> None:
    assert math.isnan(with_floats(without_floats({"x": math.nan}))["x"])


def test_a_config_with_an_infinite_bound_is_read_as_transformers_saves_it() -> None:
    saved = json.loads(tiny_config("granitemoehybrid").to_json_string())
    assert saved["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    config = config_of(saved)
    assert tuple(config.time_step_limit) == (0.0, math.inf)
    plain = plain_config(config)
    json.dumps(plain, allow_nan=False)
    assert tuple(config_of(plain).time_step_limit) == (0.0, math.inf)
