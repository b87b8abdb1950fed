"""Turns the bytes of a request into a JSON object of plain values. Checks no field.

Token ids may be millions. They are packed here, so that nobody else looks at each before it is
known whether there are too many.
"""

import json
import re
from typing import Any, NoReturn

from serve_app.protocol.errors import bad_request
from serve_app.protocol.token_ids import packed

DEEPEST = 64
"""Lists and objects in each other. Tools' schemas need some 20; processes can hand over 500."""
MOST_VALUES = 2**16
"""Texts, numbers, lists and objects in a body, without token ids. 4,096 messages have 40,000 if
each calls a tool. So many take some milliseconds in every process that they pass."""
LARGEST_TOKEN = 2**31 - 1
_TOKENS = ("prompt", "tokens")
"""Fields that may have lists of token ids, or lists of such lists."""
_LARGE = 2**20
"""What is in a longer body is counted before it takes forty times its memory."""
_NUMBERS = re.compile(rb"\[[\s\d,]{256,}\]")
"""A long list of whole numbers. What is in a short one may as well be counted."""
_HALF_A_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def json_object(body: bytes) -> dict[str, Any]:
    """Its token ids are packed (`token_ids`). Raises ProtocolError 400 for what is no JSON object,
    nested too deeply, too many values, or no Unicode.
    """
    if len(body) > _LARGE:
        _count_before(body)
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise bad_request(f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_request("The body must be a JSON object")
    for name in _TOKENS:
        if name in value:
            value[name] = _with_packed(value[name])
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _check_depth(value)
    if len(body) > MOST_VALUES:
        _count(value)
    if _HALF_A_CHARACTER.search(body):
        _check_unicode(value)
    return value


def _count_before(body: bytes) -> None:
    """Without taking it apart: by the commas and the brackets outside texts, except those of long
    lists of whole numbers.
    """
    rest = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # now a quote begins or ends a text
    if rest.count(b'"') > 4 * MOST_VALUES:  # two for each value, and two for its name
        raise _too_many()
    outside = _NUMBERS.sub(b"", b"".join(rest.split(b'"')[::2]))
    if 1 + sum(outside.count(each) for each in (b",", b"[", b"{")) > MOST_VALUES:
        raise _too_many()


def _too_many() -> Exception:
    return bad_request(f"The body has too many values: the limit is {MOST_VALUES}, plus token ids")


def _with_packed(value: object) -> object:
    """Lists of token ids as bytes; all else as it is."""
    if not isinstance(value, list) or not value:
        return value
    if isinstance(value[0], list):
        return [_with_packed(each) for each in value]
    is_tokens = set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= LARGEST_TOKEN
    return packed(value) if is_tokens else value


def _count(value: object) -> None:
    num, left = 1, [value]
    while left:
        each = left.pop()
        if isinstance(each, list | dict):
            num += len(each)
            if num > MOST_VALUES:
                raise _too_many()
            left += each if isinstance(each, list) else each.values()


def depth_of(value: object, most: int) -> int:
    """How many lists and objects are in each other; `most` + 1 if there are more than `most`."""
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level and depth <= most:
        depth += 1
        below = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for several in below for each in several if isinstance(each, dict | list)]
    return depth


def _check_depth(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if depth_of(value, DEEPEST) > DEEPEST:
            raise _too_deep(name)


def _too_deep(name: str | None = None) -> Exception:
    what = "The body" if name is None else f"Invalid '{name}': it"
    return bad_request(f"{what} is nested too deeply: the limit is {DEEPEST}", name)


def _check_unicode(fields: dict[str, Any]) -> None:
    """Half of a surrogate pair is no character, and no encoder takes it."""
    for name, value in fields.items():
        if not _is_unicode(name):
            raise bad_request("The name of a field is not valid Unicode")
        if not _is_unicode(value):
            raise bad_request(f"Invalid '{name}': a text in it is not valid Unicode", name)


def _is_unicode(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=_without_text).encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_text(tokens: object) -> None:
    """Stands for token ids that are packed."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
