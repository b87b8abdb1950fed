"""What the OpenAPI document says of messages and their blocks. `message_blocks` reads them."""

from typing import Any

from serve_app.api.anthropic.message_blocks import FIELDS, NO_EFFECT, ROLE_BLOCKS

_NOTHING: dict[str, Any] = {"enum": [None, False, [], {}, ""]}
_TEXT = {"type": "string"}


def _block(kind: str, properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    assert set(properties) == set(FIELDS[kind])
    return {
        "type": "object",
        "required": ["type", *(name for name in properties if name not in optional)],
        "properties": {
            "type": {"const": kind},
            **properties,
            **dict.fromkeys(NO_EFFECT, True),
        },
        "additionalProperties": _NOTHING,
    }


def _content(*kinds: str) -> dict[str, Any]:
    blocks = [_BLOCKS[kind] for kind in kinds]
    return {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": blocks}}]}


def _message(role: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"const": role}, "content": content},
        "additionalProperties": _NOTHING,
    }


_BLOCKS = {
    "text": _block("text", {"text": _TEXT}),
    "thinking": _block("thinking", {"thinking": _TEXT, "signature": True}, ("signature",)),
    "redacted_thinking": _block("redacted_thinking", {"data": _TEXT}),
    "tool_use": _block("tool_use", {"id": _TEXT, "name": _TEXT, "input": {"type": "object"}}),
}
_OR_NULL = {"anyOf": [*_content("text")["anyOf"], {"type": "null"}]}
_BLOCKS["tool_result"] = _block(
    "tool_result",
    {"tool_use_id": _TEXT, "content": _OR_NULL, "is_error": {"type": ["boolean", "null"]}},
    ("content", "is_error"),
)
SYSTEM = _OR_NULL
MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [_message(role, _content(*kinds)) for role, kinds in ROLE_BLOCKS.items()]},
}
