"""Turns the bytes of a request into a JSON object of plain values. Knows no field."""

import json
import re
from typing import Any, NoReturn

from serve_app.protocol.errors import bad_request

DEEPEST = 64
"""Lists and objects in each other. Tools' schemas need some 20; processes can hand over 500."""
_HALF_A_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def json_object(body: bytes) -> dict[str, Any]:
    """Raises ProtocolError 400 for what is no JSON object, nested too deeply, or no Unicode."""
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise bad_request(f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_request("The body must be a JSON object")
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _check_depth(value)
    if _HALF_A_CHARACTER.search(body):
        _check_unicode(value)
    return value


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
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
