"""The input of a call as an object, whatever the model has written."""

import json
from typing import Any

from pydantic_core import from_json

NO_JSON = "INVALID_JSON"
"""Where arguments are no JSON, the name under which they are: Anthropic's own."""


def input_of(arguments: str) -> dict[str, Any]:
    """Of arguments that were cut, what clients read of them: all but a text that has no end."""
    if not arguments.strip():
        return {}
    try:
        value = from_json(arguments, allow_inf_nan=False, allow_partial=True)
        json.dumps(value, allow_nan=False)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {NO_JSON: arguments}
