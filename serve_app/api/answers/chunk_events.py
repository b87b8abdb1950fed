"""Writes the events of completions and chats: chunks, and `[DONE]` at the end. Names no event."""

import json
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal, Protocol

from serve_app.api.answers.answer import Head, Usage
from serve_app.api.statuses import OPENAI
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Piece

_HERE = "<here>"
"""Stands for the text of a piece while an event is made to see what surrounds it."""
_Shown = Literal["text", "reasoning"]
_DONE = "data: [DONE]\n\n"


class ChunkFormat(Protocol):
    """The chunks of one dialect.

    logprobs: whether log-probabilities are shown.   include_usage: a last chunk has the usage.
    """

    chunk_kind: str
    logprobs: bool
    include_usage: bool

    def opening(self, choice: int) -> list[dict[str, Any]]:
        """Choices of the chunks before any text."""

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Choices of the chunks for `piece`, one choice a chunk."""

    def usage(self, usage: Usage) -> dict[str, Any]:
        """What the last chunk says of it."""


class ChunkEvents:
    """The events of one answer in chunks.

    Most pieces have only text, or reasoning, and the rest of the event is the same each time: it is
    encoded once for each choice.
    """

    def __init__(self, form: ChunkFormat, head: Head, usage: Usage, choices: int) -> None:
        self._form = form
        self._usage = usage
        self._base = head.body(form.chunk_kind)
        if form.include_usage:
            self._base["usage"] = None
        self._start = f'data: {encoded(self._base).removesuffix("}")},"choices":['
        self._around: dict[tuple[int, str], tuple[str, str]] = {}
        self._choices = choices

    def opening(self) -> str:
        bodies = [body for choice in range(self._choices) for body in self._form.opening(choice)]
        return "".join(self._event(body) for body in bodies)

    def piece(self, piece: Piece) -> str:
        shown = None if self._form.logprobs else only_text(piece)
        if shown is None:
            return "".join(self._event(body) for body in self._form.chunks(piece))
        name, text = shown
        around = self._around.get((piece["choice"], name))
        before, after = around or self._surround(piece, name)
        return f"{before}{quoted(text)}{after}"

    def ended(self) -> str:
        if not self._form.include_usage:
            return _DONE
        return data({**self._base, "choices": [], "usage": self._form.usage(self._usage)}) + _DONE

    def failed(self, error: ProtocolError) -> str:
        return data(OPENAI.body(error))

    def _event(self, body: dict[str, Any]) -> str:
        return f"{self._start}{encoded(body)}]}}\n\n"

    def _surround(self, piece: Piece, name: _Shown) -> tuple[str, str]:
        """What is before and after the text of a piece that has only that."""
        marked = piece.copy()
        marked[name] = _HERE
        (body,) = self._form.chunks(marked)
        before, _, after = self._event(body).rpartition(quoted(_HERE))
        self._around[piece["choice"], name] = before, after
        return before, after


def only_text(piece: Piece) -> tuple[_Shown, str] | None:
    """Its text, or its reasoning, if it has nothing else to show."""
    if piece["finish"] is not None or "calls" in piece:
        return None
    text, reasoning = piece["text"], piece.get("reasoning")
    if reasoning is not None:
        return None if text else ("reasoning", reasoning)
    return ("text", text) if text else None


def data(body: dict[str, Any]) -> str:
    return f"data: {encoded(body)}\n\n"


def encoded(body: object) -> str:
    """Compact JSON in ASCII: some clients take U+2028 and similar characters for line ends."""
    return json.dumps(body, allow_nan=False, separators=(",", ":"))
