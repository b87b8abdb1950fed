"""Infinities in configs. JSON has none; transformers writes them as `{"__float__": "Infinity"}`."""

import math
from typing import Any

TAG = "__float__"
VALUES = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def with_floats(value: Any) -> Any:
    """JSON values with floats in place of what stands for them."""
    if isinstance(value, dict):
        if value.keys() == {TAG} and value[TAG] in VALUES:
            return VALUES[value[TAG]]
        return {key: with_floats(each) for key, each in value.items()}
    return [with_floats(each) for each in value] if isinstance(value, list) else value


def without_floats(value: Any) -> Any:
    """The reverse: values that any reader of JSON knows."""
    if isinstance(value, dict):
        return {key: without_floats(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_floats(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {TAG: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return value
