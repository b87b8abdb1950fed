"""The architecture of a checkpoint directory. What is refused, and why: not decided here.

`representation.architecture` does, for the engine too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from consolidation.errors import Refused
from representation.architecture.anatomy import Anatomy, study
from representation.architecture.config import config_of
from representation.architecture.errors import Unservable


def read_architecture(directory: Path, fields: Mapping[str, Any]) -> Anatomy:
    """Of the directory's `config.json`, before any tensor is read. Raises `Refused`, by name."""
    try:
        return study(config_of(fields), torch.float32)
    except Unservable as error:
        raise Refused(f"{directory}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint. Raises `Refused`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refused(f"{path} is not a JSON object")
    return content
