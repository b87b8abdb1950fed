"""Writes the server-sent events of one answer, as bytes. Waits for nothing, sends nothing."""

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal

from serve_app.api.answers import AnswerFormat, Head, Usage
from serve_app.api.statuses import error_body
from serve_app.protocol.errors import ProtocolError, internal
from serve_app.protocol.messages import Item, Piece

_HERE = "<here>"
"""Stands for the text of a piece while an event is made to see what surrounds it."""
_Shown = Literal["text", "reasoning"]
_DONE = "data: [DONE]\n\n"


class Events:
    """The events of one answer. What ends it is `[DONE]`, or an error if one happens midway.

    Most pieces have only text, or reasoning, and the rest of the event is the same each time: it is
    encoded once for each choice. Events of the last pieces are kept until `end`, to be one write
    with it.
    """

    def __init__(
        self, form: AnswerFormat, head: Head, usage: Usage, choices: int, *, include_usage: bool
    ) -> None:
        self._form = form
        self._usage = usage
        self._include_usage = include_usage
        self._base = head.body(form.chunk_kind)
        if include_usage:
            self._base["usage"] = None
        self._start = f'data: {encoded(self._base).removesuffix("}")},"choices":['
        self._around: dict[tuple[int, str], tuple[str, str]] = {}
        self._choices = choices
        self._unfinished = choices
        self._kept: list[str] = []
        self._error: ProtocolError | None = None

    @property
    def have_ended(self) -> bool:
        """Whether an error has ended them; only `end` is left."""
        return self._error is not None

    def opening(self) -> bytes:
        """What comes before any text; may be nothing."""
        bodies = [body for choice in range(self._choices) for body in self._form.opening(choice)]
        return "".join(self._event(body) for body in bodies).encode()

    def add(self, items: Sequence[Item]) -> bytes:
        """What is to be written now; may be nothing."""
        events = self._kept
        for item in items:
            if item["type"] == "piece":
                self._usage.add(item)
                shown = None if self._form.logprobs else _only_text(item)
                if shown is not None:
                    name, text = shown
                    around = self._around.get((item["choice"], name))
                    before, after = around or self._surround(item, name)
                    events.append(f"{before}{quoted(text)}{after}")
                    continue
                self._unfinished -= item["finish"] is not None
                events += [self._event(body) for body in self._form.chunks(item)]
            elif item["type"] == "error":
                self._error = ProtocolError.of_item(item)
                break
        if not self._unfinished or self._error is not None:
            return b""
        self._kept = []
        return "".join(events).encode()

    def fail(self) -> None:
        """Something else has broken: they end with an internal error."""
        self._error = internal()

    def end(self) -> bytes:
        """What is written last."""
        error = self._error
        if error is None and self._unfinished:
            error = internal()
        if error is not None:
            return "".join([*self._kept, _data(error_body(error))]).encode()
        usage = []
        if self._include_usage:
            usage = [_data({**self._base, "choices": [], "usage": self._usage.body()})]
        return "".join([*self._kept, *usage, _DONE]).encode()

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


def _only_text(piece: Piece) -> tuple[_Shown, str] | None:
    """Its text, or its reasoning, if it has nothing else to show."""
    if piece["finish"] is not None or "calls" in piece:
        return None
    text, reasoning = piece["text"], piece.get("reasoning")
    if reasoning is not None:
        return None if text else ("reasoning", reasoning)
    return ("text", text) if text else None


def _data(body: dict[str, Any]) -> str:
    return f"data: {encoded(body)}\n\n"


def encoded(body: object) -> str:
    """Compact JSON in ASCII: some clients take U+2028 and similar characters for line ends."""
    return json.dumps(body, allow_nan=False, separators=(",", ":"))
