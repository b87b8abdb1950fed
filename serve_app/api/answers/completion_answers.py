"""The shapes of answers to completions, whole and in chunks. No I/O."""

from collections.abc import Sequence
from typing import Any

from serve_app.api.answers.answer import LOWEST, Choice, Head, Usage, finite
from serve_app.api.answers.chunk_events import ChunkEvents
from serve_app.protocol.messages import Piece, TokenItem


class CompletionFormat:
    """`/v1/completions`, with the legacy form of logprobs."""

    chunk_kind = "text_completion"

    def __init__(self, *, logprobs: bool, include_usage: bool) -> None:
        self.logprobs = logprobs
        self.include_usage = include_usage

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
                choice.text,
                legacy_logprobs(choice.tokens) if self.logprobs else None,
                choice.finish,
            )
            for index, choice in enumerate(choices)
        ]
        return {**head.body("text_completion"), "choices": bodies, "usage": self.usage(usage)}

    def usage(self, usage: Usage) -> dict[str, Any]:
        return usage.body()

    def events(self, head: Head, usage: Usage, choices: int) -> ChunkEvents:
        return ChunkEvents(self, head, usage, choices)


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
