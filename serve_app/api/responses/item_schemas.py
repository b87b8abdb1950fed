"""What the OpenAPI document says of the items of an input. `input_items` checks them."""

from typing import Any

from serve_app.api.requests.parse import NOTHING
from serve_app.api.responses.input_items import ANSWER_PARTS, INPUT_PARTS, ROLES

_TEXT_OR_NULL = {"type": ["string", "null"]}
_SHARED: dict[str, Any] = {"id": True, "status": True}


def _item(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": {**_SHARED, **properties},
        "additionalProperties": {"enum": [*NOTHING]},
    }


def _parts(kinds: dict[str, str]) -> dict[str, Any]:
    each = [
        _item(
            ["type", field],
            type={"const": kind},
            **{field: {"type": "string"}},
            annotations=True,
            logprobs=True,
            prompt_cache_breakpoint=True,
        )
        for kind, field in kinds.items()
    ]
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": each}}]}


_ASKED, _ANSWERED = _parts(dict(INPUT_PARTS)), _parts(dict(ANSWER_PARTS))
_THOUGHTS = _parts({"reasoning_text": "text", "summary_text": "text", "text": "text"})
_MESSAGE = {"type": {"const": "message"}, "phase": True}
_TEXT = {"type": "string"}
_ITEMS = [
    _item(
        ["role", "content"],
        role={"enum": [role for role in ROLES if role != "assistant"]},
        content=_ASKED,
        **_MESSAGE,
    ),
    _item(["role", "content"], role={"const": "assistant"}, content=_ANSWERED, **_MESSAGE),
    _item(
        ["type", "call_id", "name", "arguments"],
        type={"const": "function_call"},
        call_id=_TEXT,
        name=_TEXT,
        arguments=_TEXT,
    ),
    _item(
        ["type", "call_id", "output"],
        type={"const": "function_call_output"},
        call_id=_TEXT,
        output=_ASKED,
        name=_TEXT_OR_NULL,
    ),
    _item(
        ["type"],
        type={"const": "reasoning"},
        content={"anyOf": [_THOUGHTS, {"type": "null"}]},
        summary={"anyOf": [_THOUGHTS, {"type": "null"}]},
        encrypted_content=_TEXT_OR_NULL,
    ),
]
INPUT: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"anyOf": _ITEMS}},
    ]
}
