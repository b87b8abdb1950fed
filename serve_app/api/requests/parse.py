"""Turns a request body into a checked value, or into one 400 that says what is wrong with it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.api.requests.body import json_object
from serve_app.api.requests.media import TEXT_ALONE, is_media
from serve_app.protocol.errors import ProtocolError, bad_request, unsupported

_Schema = TypeVar("_Schema", bound=BaseModel)

NOTHING: tuple[Any, ...] = (None, False, [], {}, "")
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "chat_template": (),
    "container": (),
    "enable_thinking": (),
    "function_call": ("none",),
    "functions": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (),
    "length_penalty": (1, 1.0),
    "mcp_servers": (),
    "modalities": (["text"],),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "spaces_between_special_tokens": (True,),
    "suffix": (),
    "tool_choice": ("none",),
    "tools": (),
    "use_beam_search": (),
    "web_search_options": (),
}
"""Unsupported fields, and the values (besides null) that ask for nothing special."""

_INSTEAD = {
    "guided_choice": "structured_outputs",
    "guided_grammar": "structured_outputs",
    "guided_json": "structured_outputs",
    "guided_regex": "structured_outputs",
    "enable_thinking": "chat_template_kwargs",
    "function_call": "tool_choice",
    "functions": "tools",
}


def parse(body: bytes, schema: type[_Schema]) -> _Schema:
    """Raises ProtocolError 400 for bad JSON and for a missing, mistyped, unknown or bad field."""
    return checked(json_object(body), schema)


def checked(fields: dict[str, Any], schema: type[_Schema]) -> _Schema:
    """Of a `json_object`. Raises ProtocolError 400 as `parse` does for its fields."""
    return _validated(_without_neutral(fields, schema), schema)


def drop_neutral(fields: Mapping[str, Any], known: Sequence[str], where: str) -> dict[str, Any]:
    """The known fields. Raises ProtocolError `unsupported_parameter` for one that asks for more."""
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if name in known:
            kept[name] = value
        elif value not in NOTHING:
            raise unsupported(f"{where}{name}")
    return kept


def invalid(where: str, why: str) -> ProtocolError:
    """where: of a value in the body, as `messages[0].role`."""
    return bad_request(f"Invalid '{where}': {why}", where)


def unsupported_kind(where: str, kind: str, *, noun: str, otherwise: str = "") -> ProtocolError:
    """For a part of a content, which each protocol calls by its own noun.

    otherwise: what else is said of a kind that is no image, audio or video.
    """
    why = f": {TEXT_ALONE}" if is_media(kind) else otherwise
    return unsupported(where, f"'{where}': {noun} of type '{kind}' are not supported here{why}")


def missing(where: str) -> ProtocolError:
    return bad_request(f"Missing required parameter: '{where}'", where)


def text_at(value: object, where: str) -> str:
    """Raises ProtocolError 400 for what is no text."""
    if not isinstance(value, str):
        raise invalid(where, "must be a string")
    return value


def _without_neutral(fields: dict[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """Drops unsupported fields that ask for nothing; refuses the rest by name.

    Unknown fields are refused too: a misspelt one would silently change the answer.
    """
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if name in schema.model_fields:
            kept[name] = value
        elif name not in _NEUTRAL:
            raise unsupported(name, f"Unrecognized request argument supplied: {name}")
        elif not any(_same(value, neutral) for neutral in (*NOTHING, *_NEUTRAL[name])):
            instead = _INSTEAD.get(name)
            words = None if instead is None else f"'{name}' is not supported here: use '{instead}'"
            raise unsupported(name, words)
    return kept


def _same(value: object, neutral: object) -> bool:
    """Equal and of the same type: 0 is not False here."""
    return type(value) is type(neutral) and value == neutral


def _validated(fields: dict[str, Any], schema: type[_Schema]) -> _Schema:
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _first(error) from None


def _first(error: ValidationError) -> ProtocolError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = _dotted(first["loc"])
    if first["type"] == "missing":
        return missing(param)
    message = first["msg"].removeprefix("Value error, ")
    return bad_request(f"Invalid '{param}': {message}" if param else message, param or None)


def _dotted(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
    return text
