"""Reads the response template that an operator gives. Uses none."""

import json
from pathlib import Path
from typing import Any

from serve_app.errors import ConfigError
from serve_app.text.errors import BadResponseTemplate


def read_template_file(path: str) -> Any:
    """What the file says, as JSON has it. Raises ConfigError, which names the file."""
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"response template {path}: {error.strerror}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"response template {path}: it is not JSON: {error}") from error
    from serve_app.text.answers.response_format import read_format  # imports transformers

    try:
        read_format(path, given)
    except BadResponseTemplate as error:
        raise ConfigError(f"response template {error}") from error
    return given
