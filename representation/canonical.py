"""One spelling of a plain value as JSON, so that equal values are equal bytes. Writes no file."""

import json


def canonical_json(value: object) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8. Refuses NaN and infinities."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()
