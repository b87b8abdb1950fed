"""The messages of a conversation, checked, and brought to the one form that chat templates know."""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from serve_app.api.requests.parse import (
    drop_neutral,
    invalid,
    missing,
    text_at,
    unsupported_kind,
)
from serve_app.protocol.errors import unsupported

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_ANSWER = ("tool_calls", "function_call", "reasoning_content", "reasoning")
_TEXTS = ("name", "tool_call_id", "reasoning_content", "reasoning")


def _messages(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a non-empty list of messages")
    return [_message(item, f"messages[{index}]") for index, item in enumerate(value)]


def _message(value: object, where: str) -> dict[str, Any]:
    """One message. Calls and reasoning have the newer of their names, and texts are strings."""
    if not isinstance(value, Mapping):
        raise invalid(where, "must be an object")
    if "role" not in value:
        raise missing(f"{where}.role")
    role = value["role"]
    if role not in _ROLES:
        raise invalid(f"{where}.role", f"must be one of {', '.join(_ROLES)}")
    own = _ANSWER if role == "assistant" else ()
    given = drop_neutral(value, ("role", "content", "name", "tool_call_id", *own), f"{where}.")
    message: dict[str, Any] = {"role": "tool" if role == "function" else role}
    for name in _TEXTS:
        if given.get(name) is not None:
            message[name] = text_at(given[name], f"{where}.{name}")
    reasoning = message.pop("reasoning", None)
    if reasoning is not None:
        message.setdefault("reasoning_content", reasoning)
    calls = _calls(given, where)
    if calls:
        message["tool_calls"] = calls
    is_told = "reasoning_content" in message or bool(calls)
    if "content" not in given and not is_told:
        raise missing(f"{where}.content")
    if given.get("content") is None and is_told:
        return {**message, "content": ""}
    return {**message, "content": _content(given["content"], f"{where}.content")}


def _calls(given: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Of `tool_calls`, or of the older `function_call`."""
    calls = given.get("tool_calls")
    if calls is not None:
        return _each(calls, f"{where}.tool_calls", _call)
    if given.get("function_call") is None:
        return []
    function = _function(given["function_call"], f"{where}.function_call")
    return [{"type": "function", "function": function}]


def _call(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise invalid(where, "must be an object")
    given = drop_neutral(value, ("id", "type", "function", "index"), f"{where}.")
    if given.get("type", "function") != "function":
        raise unsupported(f"{where}.type", f"'{where}.type': only 'function' is supported")
    if "function" not in given:
        raise missing(f"{where}.function")
    made: dict[str, Any] = (
        {} if given.get("id") is None else {"id": text_at(given["id"], f"{where}.id")}
    )
    function = _function(given["function"], f"{where}.function")
    return {**made, "type": "function", "function": function}


def _function(value: object, where: str) -> dict[str, Any]:
    """Arguments are JSON, as OpenAI has them. An object is taken too."""
    if not isinstance(value, Mapping):
        raise invalid(where, "must be an object")
    given = drop_neutral(value, ("name", "arguments"), f"{where}.")
    if "name" not in given:
        raise missing(f"{where}.name")
    arguments = given.get("arguments", "{}")
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    name, arguments = (
        text_at(given["name"], f"{where}.name"),
        text_at(arguments, f"{where}.arguments"),
    )
    return {"name": name, "arguments": arguments or "{}"}


def _each(
    value: object, where: str, read: Callable[[object, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise invalid(where, "must be a list")
    return [read(item, f"{where}[{index}]") for index, item in enumerate(value)]


def _content(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(where, "must be a string or a list of parts")
    texts: list[str] = []
    for index, part in enumerate(value):
        here = f"{where}[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(kind, str):
            raise missing(f"{here}.type")
        if kind != "text":
            raise unsupported_kind(here, kind, noun="parts")
        texts.append(text_at(part.get("text"), f"{here}.text"))
    return "\n".join(texts)


_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_NOTHING: dict[str, Any] = {"enum": [None, False, [], {}, ""]}
_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]}
_SHARED = {"name": _TEXT_OR_NULL, "tool_call_id": _TEXT_OR_NULL}
_FUNCTION = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "arguments": {"type": ["string", "object"]}},
    "additionalProperties": _NOTHING,
}
_CALL = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": _TEXT_OR_NULL,
        "type": {"const": "function"},
        "function": _FUNCTION,
        "index": True,
    },
    "additionalProperties": _NOTHING,
}
_ONE_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": [role for role in _ROLES if role != "assistant"]},
        "content": _CONTENT,
        **_SHARED,
    },
    "additionalProperties": _NOTHING,
}
_ONE_ANSWER = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"const": "assistant"},
        "content": {"anyOf": [*_CONTENT["anyOf"], {"type": "null"}]},
        "tool_calls": {"anyOf": [{"type": "array", "items": _CALL}, {"type": "null"}]},
        "function_call": {"anyOf": [_FUNCTION, {"type": "null"}]},
        "reasoning_content": _TEXT_OR_NULL,
        "reasoning": _TEXT_OR_NULL,
        **_SHARED,
    },
    "additionalProperties": _NOTHING,
    "anyOf": [
        {"required": ["content"], "properties": {"content": _CONTENT}},
        {
            "required": ["tool_calls"],
            "properties": {"tool_calls": {"type": "array", "minItems": 1}},
        },
        {"required": ["function_call"], "properties": {"function_call": {"type": "object"}}},
        {
            "required": ["reasoning_content"],
            "properties": {"reasoning_content": {"type": "string"}},
        },
        {"required": ["reasoning"], "properties": {"reasoning": {"type": "string"}}},
    ],
}
Messages = Annotated[
    list[dict[str, Any]],
    BeforeValidator(_messages),
    WithJsonSchema(
        {"type": "array", "minItems": 1, "items": {"anyOf": [_ONE_MESSAGE, _ONE_ANSWER]}}
    ),
]
"""Messages of the roles of OpenAI. A function's is a tool's; an assistant's has a content."""
