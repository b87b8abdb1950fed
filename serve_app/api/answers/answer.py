"""What the answers of all dialects are made of, and what a dialect must give to be written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import CallDelta, Piece, TokenItem

LOWEST = -9999.0
"""OpenAI's stand-in for a log-probability of minus infinity, which JSON cannot hold."""


@dataclass(slots=True)
class Choice:
    """One choice while it is being collected. pieces: in the order in which they came."""

    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(piece["text"] for piece in self.pieces)

    @property
    def reasoning(self) -> str:
        return "".join(piece.get("reasoning", "") for piece in self.pieces)

    @property
    def calls(self) -> list[CallDelta]:
        """One for each call."""
        return joined(delta for piece in self.pieces for delta in piece.get("calls", ()))

    @property
    def tokens(self) -> list[TokenItem]:
        return [token for piece in self.pieces for token in piece["tokens"]]

    @property
    def finish(self) -> str | None:
        """Why it has ended, if it has."""
        return self.pieces[-1]["finish"] if self.pieces else None


def joined(deltas: Iterable[CallDelta]) -> list[CallDelta]:
    """One for each call."""
    calls: dict[int, list[CallDelta]] = {}
    for delta in deltas:
        calls.setdefault(delta["index"], []).append(delta)
    return [
        {**first, "arguments": "".join(delta["arguments"] for delta in (first, *more))}
        for first, *more in calls.values()
    ]


class Usage:
    """Tokens of a request: each prompt counts once, every choice counts.

    finishes: why choices have ended.   first_at: when the first token came, by a clock that never
    goes back.   queued_s: how long it waited before anything was computed.
    """

    def __init__(self, prompt_tokens: Sequence[int]) -> None:
        self.num_prompt = sum(prompt_tokens)
        self.void()

    def void(self) -> None:
        """Nothing has come of the answer."""
        self.num_answered = 0
        self.num_reasoning = 0
        self.num_cached = 0
        self.finishes: list[str] = []
        self.first_at: float | None = None
        self.queued_s: float | None = None

    def add(self, piece: Piece) -> None:
        if self.first_at is None and piece["num_tokens"]:
            self.first_at = monotonic()
            self.queued_s = piece.get("queued_s")
        self.num_answered += piece["num_tokens"]
        self.num_reasoning += piece.get("num_reasoning", 0)
        self.num_cached += piece["num_cached"]
        if piece["finish"] is not None:
            self.finishes.append(piece["finish"])

    def body(self) -> dict[str, Any]:
        """As completions have it."""
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_answered,
            "total_tokens": self.num_prompt + self.num_answered,
            "prompt_tokens_details": {"cached_tokens": self.num_cached},
        }

    def chat_body(self) -> dict[str, Any]:
        """As chats have it, whose reasoning is told apart."""
        return {
            **self.body(),
            "completion_tokens_details": {"reasoning_tokens": self.num_reasoning},
        }


@dataclass(frozen=True, slots=True)
class Head:
    """The fields at the start of every answer and chunk of one request. `created`: Unix seconds."""

    id: str
    created: int
    model: str
    release: str
    service_tier: str

    def body(self, kind: str) -> dict[str, Any]:
        """As completions and chats have them."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": self.service_tier,
            "system_fingerprint": self.release,
        }


class AnswerFormat(Protocol):
    """How one request is answered."""

    def whole(self, head: Head, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    def events(self, head: Head, usage: Usage, choices: int) -> "AnswerEvents":
        """Those of an answer that is. usage: counts the pieces, before they are written."""


class AnswerEvents(Protocol):
    """The server-sent events of one answer, as text. What is written was handed over in order."""

    def opening(self) -> str:
        """Those before any piece; may be none."""

    def piece(self, piece: Piece) -> str:
        """Those of more of the answer; may be none."""

    def ended(self) -> str:
        """Those after the last piece: all choices have ended."""

    def failed(self, error: ProtocolError) -> str:
        """Those that end an answer midway."""


def finite(logprob: float | None) -> float | None:
    """As JSON can hold it."""
    return None if logprob is None else max(logprob, LOWEST)
