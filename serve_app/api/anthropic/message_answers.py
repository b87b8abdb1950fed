"""The shape of a message, whole and as the events of a stream."""

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from serve_app.api.answers.answer import Choice, Head, Usage
from serve_app.api.answers.answer_parts import PartEvent, Parts
from serve_app.api.answers.chunk_events import encoded, only_text
from serve_app.api.anthropic.answer_blocks import (
    DELTA_FIELDS,
    AnswerBlocks,
    BlockBegun,
    BlockEvent,
    BlockGrown,
    whole_blocks,
)
from serve_app.api.anthropic.anthropic_errors import ANTHROPIC
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Piece

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_TIERS = {"priority": "priority", "default": "standard", "flex": "batch"}
"""By what chats call it."""


class MessageFormat:
    """`/v1/messages`. request: the id of the answer.   shows_thinking: see `AnswerBlocks`."""

    def __init__(self, request: str, *, shows_thinking: bool) -> None:
        self._request = request
        self._shows_thinking = shows_thinking

    def whole(self, head: Head, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        [choice] = choices
        parts = Parts()
        told = [event for piece in choice.pieces for event in parts.add(piece)]
        content = whole_blocks(self._blocks().of([*told, *parts.end()]))
        return {**_message(head, usage, content), **_ending(choice.pieces[-1])}

    def events(self, head: Head, usage: Usage, choices: int) -> "MessageEvents":
        del choices  # there is one
        return MessageEvents(self._blocks(), head, usage)

    def _blocks(self) -> AnswerBlocks:
        return AnswerBlocks(self._request, shows_thinking=self._shows_thinking)


class MessageEvents:
    """Those of one message. Nothing is known of the cache when they begin: the last ones tell."""

    def __init__(self, blocks: AnswerBlocks, head: Head, usage: Usage) -> None:
        self._parts = Parts()
        self._blocks = blocks
        self._head = head
        self._usage = usage
        self._last: Piece | None = None

    def opening(self) -> str:
        message = {**_message(self._head, self._usage, []), "stop_reason": None}
        return _event("message_start", {"message": {**message, "stop_sequence": None}})

    def piece(self, piece: Piece) -> str:
        if piece["finish"] is not None:
            self._last = piece
        shown = only_text(piece)
        if shown is not None and shown[0] == self._parts.open:  # most pieces, so the short way
            return "".join(map(_block_event, self._blocks.grown(*shown)))
        return self._told(self._parts.add(piece))

    def ended(self) -> str:
        assert self._last is not None, "no piece has ended it"
        told = {"delta": _ending(self._last), "usage": _usage(self._usage)}
        last = _event("message_delta", told) + _event("message_stop", {})
        return self._told(self._parts.end()) + last

    def failed(self, error: ProtocolError) -> str:
        return _event("error", ANTHROPIC.body(error))

    def _told(self, parts: Sequence[PartEvent]) -> str:
        return "".join(map(_block_event, self._blocks.of(parts)))


def _message(head: Head, usage: Usage, content: list[dict[str, Any]]) -> dict[str, Any]:
    """Without its end."""
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "usage": {**_usage(usage), "service_tier": _TIERS[head.service_tier]},
    }


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens of the prompt count once: as input, or as read from the cache."""
    return {
        "input_tokens": usage.num_prompt - usage.num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached,
        "output_tokens": usage.num_answered,
    }


def _ending(last: Piece) -> dict[str, Any]:
    reason = _REASONS[last["finish"] or "stop"]
    stop = last.get("stopped_by") if reason == "end_turn" else None
    return {
        "stop_reason": reason if stop is None else "stop_sequence",
        "stop_sequence": stop,
    }


def _block_event(event: BlockEvent) -> str:
    if isinstance(event, BlockGrown):
        name = f'"{DELTA_FIELDS[event.kind]}":{quoted(event.text)}'
        delta = f'{{"type":"{event.kind}",{name}}}'
        kind = "content_block_delta"
        data = f'{{"type":"{kind}","index":{event.index},"delta":{delta}}}'
        return f"event: {kind}\ndata: {data}\n\n"
    if isinstance(event, BlockBegun):
        fields = {"index": event.index, "content_block": event.block}
        return _event("content_block_start", fields)
    return _event("content_block_stop", {"index": event.index})


def _event(kind: str, fields: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {encoded({'type': kind, **fields})}\n\n"
