"""The architecture of a checkpoint directory. What is refused, and why: not decided here.

`representation.architecture` does, for the engine too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from consolidation.checkpoints.notes import Note
from consolidation.errors import Refused
from representation.architecture.anatomy import Anatomy, study
from representation.architecture.config import OUTPUTS, config_of
from representation.architecture.errors import Unservable
from representation.json_text import parse_json
from representation.text_fields import text_fields

START = "decoder_start_token_id"
MOST_LAYERS = 1024
"""Far above what models have: building a skeleton takes time and memory for each layer."""
_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer")


def read_architecture(directory: Path, fields: Mapping[str, Any], note: Note) -> Anatomy:
    """Of the directory's `config.json`, before any tensor is read. Raises `Refused`, by name.

    Notes a line for each field that asks for more than logits.
    """
    for name, usual in OUTPUTS.items():
        if fields.get(name) not in (None, usual):
            note(
                f"{directory}: {name} is {fields[name]!r} in config.json: ignored, "
                "logits are all that is needed"
            )
    _check_layers(directory, fields)
    try:
        return study(config_of(fields), torch.float32)
    except Unservable as error:
        raise Refused(f"{directory}: {error}") from error


def _check_layers(directory: Path, fields: Mapping[str, Any]) -> None:
    text = text_fields(fields)
    for name in _LAYERS if isinstance(text, Mapping) else ():
        number = text.get(name)
        if isinstance(number, int | float) and number > MOST_LAYERS:
            raise Refused(
                f"{directory}: {name} is {number} in config.json: more than {MOST_LAYERS}"
            )


def with_beginning(fields: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `config.json`, with the token that `generate()` lets a decoder begin with.

    The file of generation defaults may say it instead, and is asked first. Of a decoder without an
    encoder, they stay as they are.
    """
    token = generation.get(START)
    if token is None or not fields.get("is_encoder_decoder"):
        return dict(fields)
    return {**fields, START: token}


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is a value that JSON does not have")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint. Raises `Refused`."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refused(f"{path} is not a JSON object")
    return content
