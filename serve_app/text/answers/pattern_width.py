"""Refuses patterns with which the parser of transformers would stay at one place for ever."""

from re import _parser  # type: ignore[attr-defined]  # nothing public tells widths
from typing import Any

from transformers.utils.chat_parsing.response_templates import ResponseTemplate

from serve_app.text.errors import BadResponseTemplate


def check_progress(name: str, template: ResponseTemplate) -> None:
    """Each region must take something of the text: at its beginning or at its end.

    name: of the template.   Raises BadResponseTemplate, which names the field.
    """
    for key, field in template.fields.items():
        opens = field.open_re is None or _may_be_nothing(field.open_re)
        if opens and field.close_re is not None and _may_be_nothing(field.close_re):
            raise BadResponseTemplate(
                f"{name}: 'close_pattern' of the field {key!r} may match nothing, so the parser "
                "would never get past that place: let it match at least one character"
            )


def _may_be_nothing(pattern: Any) -> bool:
    """pattern: of the `regex` library. What only that can read is tried on an empty text alone."""
    try:
        fewest, _ = _parser.parse(pattern.pattern).getwidth()
    except (_parser.error, OverflowError, RecursionError):
        return pattern.fullmatch("") is not None
    return bool(fewest == 0)
