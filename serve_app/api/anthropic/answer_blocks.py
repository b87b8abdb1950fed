"""Tells what comes of an answer as blocks, one after another: thinking, text, uses of tools."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.api.answers.answer_parts import Begun, Done, Kind, PartEvent
from serve_app.api.answers.chat_answers import call_id
from serve_app.api.anthropic.tool_input import input_of

SIGNATURE = "unsigned"
"""Of every thinking block: nothing here checks one, and some clients drop thinking without it."""
DeltaKind = Literal["text_delta", "thinking_delta", "signature_delta", "input_json_delta"]
DELTA_FIELDS: Mapping[DeltaKind, str] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
_DELTAS: Mapping[Kind, DeltaKind] = {
    "text": "text_delta",
    "reasoning": "thinking_delta",
    "call": "input_json_delta",
}


@dataclass(frozen=True, slots=True)
class BlockBegun:
    """block: as it is while nothing has been added."""

    index: int
    block: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BlockGrown:
    """More of the block that began last."""

    index: int
    kind: DeltaKind
    text: str


@dataclass(frozen=True, slots=True)
class BlockDone:
    index: int


BlockEvent = BlockBegun | BlockGrown | BlockDone


class AnswerBlocks:
    """A block is a part of the answer. request: its id, of which those of calls are made.

    shows_thinking: if not, a block of thinking is empty.
    """

    def __init__(self, request: str, *, shows_thinking: bool) -> None:
        self._request = request
        self._shows_thinking = shows_thinking
        self._num_begun = 0

    def of(self, parts: Iterable[PartEvent]) -> list[BlockEvent]:
        return [event for part in parts for event in self._of(part)]

    def _of(self, part: PartEvent) -> Iterator[BlockEvent]:
        if isinstance(part, Begun):
            self._num_begun += 1
            yield BlockBegun(self._num_begun - 1, self._block(part))
            return
        index = self._num_begun - 1
        if isinstance(part, Done):
            if part.kind == "reasoning":
                yield BlockGrown(index, "signature_delta", SIGNATURE)
            yield BlockDone(index)
        elif part.text:
            yield from self.grown(part.kind, part.text)

    def grown(self, kind: Kind, text: str) -> tuple[BlockGrown, ...]:
        """More of the part that is open, alone."""
        if kind == "reasoning" and not self._shows_thinking:
            return ()
        return (BlockGrown(self._num_begun - 1, _DELTAS[kind], text),)

    def _block(self, part: Begun) -> dict[str, Any]:
        if part.kind == "reasoning":
            return {"type": "thinking", "thinking": "", "signature": ""}
        if part.call is None:
            return {"type": "text", "text": ""}
        index, name = part.call
        call = call_id(self._request, 0, index)
        return {"type": "tool_use", "id": call, "name": name, "input": {}}


def whole_blocks(events: Iterable[BlockEvent]) -> list[dict[str, Any]]:
    """What a client makes of them, if it adds up what it is told."""
    blocks: list[dict[str, Any]] = []
    texts: list[dict[str, list[str]]] = []
    for event in events:
        if isinstance(event, BlockBegun):
            blocks.append(event.block)
            texts.append({})
        elif isinstance(event, BlockGrown):
            texts[-1].setdefault(DELTA_FIELDS[event.kind], []).append(event.text)
    return [_whole(block, parts) for block, parts in zip(blocks, texts, strict=True)]


def _whole(block: dict[str, Any], parts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    joined: dict[str, Any] = {name: "".join(texts) for name, texts in parts.items()}
    if block["type"] == "tool_use":
        joined = {"input": input_of(joined.get("partial_json", ""))}
    return {**block, **joined}
