"""The shapes of answers to completions, whole and in chunks, and what is common to all. No I/O."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from serve_app.protocol.messages import CallDelta, Piece, TokenItem

LOWEST = -9999.0
"""OpenAI's stand-in for a log-probability of minus infinity, which JSON cannot hold."""


@dataclass(slots=True)
class Choice:
    """One choice while it is being collected."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[CallDelta] = field(default_factory=list)
    tokens: list[TokenItem] = field(default_factory=list)
    finish: str | None = None

    def add(self, piece: Piece) -> None:
        self.text.append(piece["text"])
        self.reasoning.append(piece.get("reasoning", ""))
        self.calls.extend(piece.get("calls", ()))
        self.tokens.extend(piece["tokens"])
        self.finish = piece["finish"] or self.finish


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
        self.num_cached = 0
        self.finishes: list[str] = []
        self.first_at: float | None = None
        self.queued_s: float | None = None

    def add(self, piece: Piece) -> None:
        if self.first_at is None and piece["num_tokens"]:
            self.first_at = monotonic()
            self.queued_s = piece.get("queued_s")
        self.num_answered += piece["num_tokens"]
        self.num_cached += piece["num_cached"]
        if piece["finish"] is not None:
            self.finishes.append(piece["finish"])

    def body(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": self.num_answered,
            "total_tokens": self.num_prompt + self.num_answered,
            "prompt_tokens_details": {"cached_tokens": self.num_cached},
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
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": self.service_tier,
            "system_fingerprint": self.release,
        }


class AnswerFormat(Protocol):
    """How one kind of request is answered. logprobs: whether log-probabilities are shown."""

    chunk_kind: str
    logprobs: bool

    def opening(self, choice: int) -> list[dict[str, Any]]:
        """Choices of the chunks before any text."""

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Choices of the chunks for `piece`, one choice a chunk."""

    def whole(self, head: Head, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]: ...


class CompletionFormat:
    """`/v1/completions`, with the legacy form of logprobs."""

    chunk_kind = "text_completion"

    def __init__(self, *, logprobs: bool) -> None:
        self.logprobs = logprobs

    def opening(self, choice: int) -> list[dict[str, Any]]:
        del choice
        return []

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        logprobs = legacy_logprobs(piece["tokens"]) if self.logprobs else None
        return [_completion(piece["choice"], piece["text"], logprobs, piece["finish"])]

    def whole(self, head: Head, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        bodies = [
            _completion(
                index,
                "".join(choice.text),
                legacy_logprobs(choice.tokens) if self.logprobs else None,
                choice.finish,
            )
            for index, choice in enumerate(choices)
        ]
        return {**head.body("text_completion"), "choices": bodies, "usage": usage.body()}


def _completion(
    index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def legacy_logprobs(tokens: Sequence[TokenItem]) -> dict[str, Any]:
    """Parallel lists, one entry per token. `top_logprobs` always includes the token itself."""
    return {
        "tokens": [token["text"] for token in tokens],
        "token_logprobs": [finite(token["logprob"]) for token in tokens],
        "top_logprobs": [_legacy_top(token) for token in tokens],
        "text_offset": [token["offset"] for token in tokens],
    }


def _legacy_top(token: TokenItem) -> dict[str, float] | None:
    """Keyed by text: of several tokens with the same text, the likeliest is kept."""
    if token["logprob"] is None or token["top"] is None:
        return None
    top: dict[str, float] = {}
    for alternative in token["top"]:
        top.setdefault(alternative["text"], max(alternative["logprob"], LOWEST))
    top.setdefault(token["text"], max(token["logprob"], LOWEST))
    return top


def finite(logprob: float | None) -> float | None:
    """As JSON can hold it."""
    return None if logprob is None else max(logprob, LOWEST)
