"""The items of a request's input, as the messages of a chat."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.api.requests.parse import (
    drop_neutral,
    invalid,
    missing,
    text_at,
    unsupported_kind,
)
from serve_app.protocol.errors import unsupported

ROLES = ("user", "assistant", "system", "developer")
NO_EFFECT = ("id", "status")
"""Of any item: where OpenAI would have it, and how far it had come."""
INPUT_PARTS: Mapping[str, str] = {"input_text": "text", "text": "text"}
"""Kinds of parts that are text, and the field that it is in."""
ANSWER_PARTS: Mapping[str, str] = {**INPUT_PARTS, "output_text": "text", "refusal": "refusal"}
_THOUGHTS: Mapping[str, str] = {"reasoning_text": "text", "summary_text": "text", "text": "text"}
_PART_NO_EFFECT = ("annotations", "logprobs", "prompt_cache_breakpoint")
_OWN = ("function_call", "function_call_output", "reasoning", "message")
_STORED = "nothing is stored here, so send the item itself"


def messages_of(value: object) -> list[dict[str, Any]]:
    """A text, or items -> messages. Raises ProtocolError 400 that says where what is wrong.

    Reasoning, a text and calls that follow each other are one message: the answer that they were.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string or a non-empty list of items")
    reader = _Reader()
    for index, item in enumerate(value):
        reader.read(item, f"input[{index}]")
    if not reader.messages:
        raise ValueError("must have an item that says something")
    return [{"content": "", **message} for message in reader.messages]


class _Reader:
    """messages: of the chat, so far."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}

    def read(self, item: object, where: str) -> None:
        if not isinstance(item, Mapping):
            raise invalid(where, "must be an object")
        kind = item.get("type", "message")
        match kind:
            case "message":
                self._message(item, where)
            case "function_call":
                self._call(item, where)
            case "function_call_output":
                self._output(item, where)
            case "reasoning":
                self._reasoning(item, where)
            case "item_reference":
                raise unsupported(where, f"'{where}': {_STORED}")
            case str():
                message = f"'{where}': items of type '{kind}' are not supported here, only "
                raise unsupported(where, message + ", ".join(sorted(_OWN)))
            case _:
                raise invalid(f"{where}.type", "must be a string")

    def _message(self, item: Mapping[str, Any], where: str) -> None:
        given = _fields(item, where, ("role", "content"), ("phase",))
        role = given["role"]
        if role not in ROLES:
            raise invalid(f"{where}.role", f"must be one of {', '.join(ROLES)}")
        parts = ANSWER_PARTS if role == "assistant" else INPUT_PARTS
        text = _text(given["content"], f"{where}.content", parts)
        last = self._answer() if role == "assistant" else {}
        if "tool_calls" in last:
            last["content"] = last.get("content", "") + text
        elif "content" in last or role != "assistant":
            self.messages.append({"role": role, "content": text})
        else:
            last["content"] = text

    def _call(self, item: Mapping[str, Any], where: str) -> None:
        given = _fields(item, where, ("call_id", "name", "arguments"), ())
        call, name, arguments = (
            text_at(given[field], f"{where}.{field}") for field in ("call_id", "name", "arguments")
        )
        self._names[call] = name
        function = {"name": name, "arguments": arguments or "{}"}
        made = {"id": call, "type": "function", "function": function}
        self._answer().setdefault("tool_calls", []).append(made)

    def _output(self, item: Mapping[str, Any], where: str) -> None:
        given = _fields(item, where, ("call_id", "output"), ("name",))
        call = text_at(given["call_id"], f"{where}.call_id")
        if call not in self._names:
            raise invalid(f"{where}.call_id", f"no function_call before has the call_id '{call}'")
        text = _text(given["output"], f"{where}.output", INPUT_PARTS)
        message = {"role": "tool", "tool_call_id": call, "name": self._names[call], "content": text}
        self.messages.append(message)

    def _reasoning(self, item: Mapping[str, Any], where: str) -> None:
        """The reasoning itself, or what a summary says of it."""
        given = _fields(item, where, (), ("summary", "content", "encrypted_content"))
        texts = [
            _text(given.get(name) or [], f"{where}.{name}", _THOUGHTS)
            for name in ("content", "summary")
        ]
        reasoning = texts[0] or texts[1]
        if not reasoning and given.get("encrypted_content"):
            message = f"'{where}': reasoning that is encrypted cannot be read here"
            raise unsupported(f"{where}.encrypted_content", message)
        if not reasoning:
            return
        last = self._answer()
        if "content" in last or "tool_calls" in last:
            last = {"role": "assistant"}
            self.messages.append(last)
        if "reasoning_content" in last:
            reasoning = f"{last['reasoning_content']}\n{reasoning}"
        last["reasoning_content"] = reasoning

    def _answer(self) -> dict[str, Any]:
        """The answer that goes on, or a new one."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant"})
        return self.messages[-1]


def _fields(
    item: Mapping[str, Any], where: str, needed: Sequence[str], others: Sequence[str]
) -> dict[str, Any]:
    """Those of an item. Raises ProtocolError 400 for one that is missing or unknown."""
    given = drop_neutral(item, ("type", *NO_EFFECT, *needed, *others), f"{where}.")
    for name in needed:
        if given.get(name) is None:
            raise missing(f"{where}.{name}")
    return given


def _text(value: object, where: str, kinds: Mapping[str, str]) -> str:
    """A text, or parts of it, each a line of its own, as in chats."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(where, "must be a string or a list of parts")
    return "\n".join(_part(part, f"{where}[{at}]", kinds) for at, part in enumerate(value))


def _part(part: object, where: str, kinds: Mapping[str, str]) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise missing(f"{where}.type")
    if kind not in kinds:
        raise unsupported_kind(where, kind, noun="parts")
    field = kinds[kind]
    given = drop_neutral(part, ("type", field, *_PART_NO_EFFECT), f"{where}.")
    if field not in given:
        raise missing(f"{where}.{field}")
    return text_at(given[field], f"{where}.{field}")
