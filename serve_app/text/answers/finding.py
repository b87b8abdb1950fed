"""Which response format a model has: its own, the operator's, or one of ours that fits."""

import json
from collections.abc import Container, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from serve_app.text.answers.response_format import ResponseFormat, read_format

OWN = "own"
"""What a format is called that came with the model."""
GIVEN = "file"
"""What the operator's is called."""
_DATA = Path(__file__).parent / "data"


@cache
def known_formats() -> Mapping[str, ResponseFormat]:
    """Ours, by name: a file each, in a folder by how calls are written. First those with most
    signs, which are the more special.
    """
    found = [
        read_format(file.stem, json.loads(file.read_text(encoding="utf-8")))
        for file in sorted(_DATA.glob("*/*.json"))
    ]
    found.sort(key=lambda each: (-each.num_signs, each.name))
    return {each.name: each for each in found}


def fitting_format(chat_template: str, vocabulary: Container[str]) -> ResponseFormat | None:
    """The one of ours that has all its signs in a chat template, and its tokens in a vocabulary.

    If several have, the one with most signs. None if none has.
    """
    for each in known_formats().values():
        is_written = all(marker in chat_template for marker in each.markers) and all(
            pattern.search(chat_template) for pattern in each.written
        )
        if is_written and all(token in vocabulary for token in each.tokens):
            return each
    return None


def format_of(
    own: Any, override: ResponseFormat | None, chat_template: Any, vocabulary: Container[str]
) -> ResponseFormat | None:
    """own: the `response_template` of a tokenizer, or None.   override: what the operator gives.

    Raises BadResponseTemplate for one that a model came with and that is none.
    """
    if override is not None:
        return override
    if own is not None:
        return read_format(OWN, own)
    if isinstance(chat_template, Mapping):  # several, by name
        chat_template = "\n".join(map(str, chat_template.values()))
    return None if chat_template is None else fitting_format(str(chat_template), vocabulary)
