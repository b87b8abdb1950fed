"""The system and the messages of Anthropic's protocol, as the messages of a chat."""

import json
from collections.abc import Mapping
from typing import Any

from serve_app.api.requests.parse import (
    drop_neutral,
    invalid,
    missing,
    text_at,
    unsupported_kind,
)

NO_EFFECT = ("cache_control", "caller", "citations")
"""Of any block: which prompts are kept is decided here, and nobody else runs tools."""
ROLE_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
FIELDS: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
}
FAILED = "Error: "
"""What a result that `is_error` begins with: chat templates have no other sign for it."""


def system_of(value: object) -> list[dict[str, Any]]:
    """The chat's first message; none if the text is empty."""
    text = _texts(value, "system")
    return [{"role": "system", "content": text}] if text else []


def messages_of(value: object) -> list[dict[str, Any]]:
    """Turns of one role that follow each other are one, as Anthropic has it.

    Raises ProtocolError 400 that says where what is wrong.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("must be a non-empty list of messages")
    reader = _Reader()
    for index, item in enumerate(value):
        reader.read(item, f"messages[{index}]")
    last = reader.messages[-1]
    if "tool_calls" in last:
        raise invalid(f"messages[{len(value) - 1}]", "its tool_use blocks need tool_result blocks")
    return reader.messages


class _Reader:
    """messages: of the chat, so far."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}

    def read(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise invalid(where, "must be an object")
        given = drop_neutral(value, ("role", "content"), f"{where}.")
        for name in ("role", "content"):
            if name not in given:
                raise missing(f"{where}.{name}")
        role, content = given["role"], given["content"]
        if not isinstance(role, str) or role not in ROLE_BLOCKS:
            raise invalid(f"{where}.role", f"must be one of {', '.join(ROLE_BLOCKS)}")
        here = f"{where}.content"
        if isinstance(content, str):
            self._say(role, content)
            return
        if not isinstance(content, list):
            raise invalid(here, "must be a string or a list of blocks")
        if role == "assistant":
            self._answer(_blocks(content, here, ROLE_BLOCKS[role]))
            return
        for block in _blocks(content, here, ROLE_BLOCKS[role]):
            if block["type"] == "text":
                self._say(role, block["text"])
            else:
                self._result(block)
        if not content:
            self._say(role, "")

    def _say(self, role: str, text: str) -> None:
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == role:
            last["content"] = _lines(last["content"], text)
        else:
            self.messages.append({"role": role, "content": text})

    def _result(self, block: Mapping[str, Any]) -> None:
        call, where = block["tool_use_id"], block["where"]
        if call not in self._names:
            raise invalid(f"{where}.tool_use_id", f"no tool_use block before has the id '{call}'")
        text = FAILED * bool(block.get("is_error")) + _texts(
            block.get("content"), f"{where}.content"
        )
        name = self._names[call]
        message = {"role": "tool", "tool_call_id": call, "name": name, "content": text}
        self.messages.append(message)

    def _answer(self, blocks: list[dict[str, Any]]) -> None:
        self._say("assistant", "\n".join(_each(blocks, "text")))
        message = self.messages[-1]
        thoughts = _each(blocks, "thinking")
        if thoughts:
            message["reasoning_content"] = _lines(message.get("reasoning_content", ""), *thoughts)
        for block in blocks:
            if block["type"] == "tool_use":
                self._names[block["id"]] = block["name"]
                arguments = json.dumps(block["input"], ensure_ascii=False)
                function = {"name": block["name"], "arguments": arguments}
                call = {"id": block["id"], "type": "function", "function": function}
                message.setdefault("tool_calls", []).append(call)


def _blocks(content: list[Any], where: str, allowed: tuple[str, ...]) -> list[dict[str, Any]]:
    return [_block(value, f"{where}[{index}]", allowed) for index, value in enumerate(content)]


def _block(value: object, where: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """One block, checked. where: its place, which it keeps."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(kind, str):
        raise missing(f"{where}.type")
    if kind not in allowed:
        only = f", only {', '.join(allowed)}"
        raise unsupported_kind(where, kind, noun="blocks", otherwise=only)
    known = ("type", *FIELDS[kind], *NO_EFFECT)
    block = {**drop_neutral(value, known, f"{where}."), "where": where}
    for name in ("text", "thinking", "data", "id", "name", "tool_use_id"):
        if name in FIELDS[kind]:
            if name not in block:
                raise missing(f"{where}.{name}")
            block[name] = text_at(block[name], f"{where}.{name}")
    if kind == "tool_use" and not isinstance(block.get("input"), Mapping):
        raise invalid(f"{where}.input", "must be an object")
    if not isinstance(block.get("is_error"), bool | None):
        raise invalid(f"{where}.is_error", "must be true or false")
    return block


def _texts(value: object, where: str) -> str:
    """A text, or blocks of text; nothing is no text."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise invalid(where, "must be a string or a list of blocks")
    return "\n".join(_each(_blocks(value, where, ("text",)), "text"))


def _each(blocks: list[dict[str, Any]], kind: str) -> list[str]:
    return [block[kind] for block in blocks if block["type"] == kind]


def _lines(*texts: str) -> str:
    """As parts of a content are joined."""
    return "\n".join(text for text in texts if text)
