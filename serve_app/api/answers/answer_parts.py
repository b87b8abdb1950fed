"""Tells what comes of a chat's answer as parts, one after another: reasoning, text, calls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.protocol.messages import CallDelta, Piece, TokenItem

Kind = Literal["reasoning", "text", "call"]


@dataclass(frozen=True, slots=True)
class Begun:
    """A part begins. call: of its choice, and the function's name, if it is one."""

    kind: Kind
    call: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Grown:
    """More of the part that began last. tokens: with their log-probabilities, of a text's."""

    kind: Kind
    text: str
    tokens: Sequence[TokenItem] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The part that began last is whole."""

    kind: Kind


PartEvent = Begun | Grown | Done


class Parts:
    """A part ends where one of another kind, or another call, begins.

    Within one piece, what it adds to the call that is open comes first, since nothing else could
    stand before that; then reasoning, then text, then calls that begin. Tokens of a piece with text
    are of that text, and so are those of pieces around it that show nothing.
    """

    def __init__(self) -> None:
        self.open: Kind | None = None
        self._waiting: list[TokenItem] = []

    def add(self, piece: Piece) -> list[PartEvent]:
        return list(self._added(piece))

    def end(self) -> list[PartEvent]:
        """There is no more."""
        return list(self._close())

    def _added(self, piece: Piece) -> Iterator[PartEvent]:
        calls = piece.get("calls", [])
        begins = [at for at, call in enumerate(calls) if call["name"] is not None]
        first = begins[0] if begins else len(calls)
        for call in calls[:first]:
            yield Grown("call", call["arguments"])
        reasoning = piece.get("reasoning")
        if reasoning:
            yield from self._to("reasoning")
            yield Grown("reasoning", reasoning)
        yield from self._text(piece)
        for call in calls[first:]:
            yield from self._call(call)

    def _text(self, piece: Piece) -> Iterator[PartEvent]:
        text, others = piece["text"], "reasoning" in piece or "calls" in piece
        if text:
            yield from self._to("text")
        if text or (self.open == "text" and not others):
            tokens, self._waiting = [*self._waiting, *piece["tokens"]], []
            if text or tokens:
                yield Grown("text", text, tokens)
        elif others:
            self._waiting = []
        else:
            self._waiting.extend(piece["tokens"])

    def _call(self, call: CallDelta) -> Iterator[PartEvent]:
        if call["name"] is not None:
            yield from self._close()
            yield from self._to("call", (call["index"], call["name"]))
        if call["arguments"]:
            yield Grown("call", call["arguments"])

    def _to(self, kind: Kind, call: tuple[int, str] | None = None) -> Iterator[PartEvent]:
        """What comes next is of this kind."""
        if self.open == kind:
            return
        yield from self._close()
        self.open = kind
        yield Begun(kind, call)

    def _close(self) -> Iterator[PartEvent]:
        if self.open is not None:
            yield Done(self.open)
            self.open = None
