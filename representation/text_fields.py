"""The fields of a text model in a config, as JSON values. Builds no config."""

from collections.abc import Mapping
from typing import Any


def text_fields(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the text model, which a wrapper has apart; of any other model all."""
    found: Mapping[str, Any] = config.get("text_config") or config
    return found
