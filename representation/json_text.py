"""JSON from files of others, read so that all that is wrong with it is one kind of error."""

import json
from typing import Any

HALF = "\\ud"
"""How the escape of half of a surrogate pair begins, in lower case."""


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What `json.loads` finds, with its options.

    Raises: ValueError, also for what is nested too deep, and for text with half of a surrogate
        pair, which is no character and which nothing can encode.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "strict")
    try:
        found = json.loads(text, **options)
        if HALF in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except UnicodeEncodeError as error:
        half = str(error.object)[error.start : error.start + 1]
        raise ValueError(f"{half!r} is half of a surrogate pair and no character") from error
    return found
