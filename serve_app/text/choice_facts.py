"""What a choice shows, and what has been told of it. Values, known without a tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

TokenLogprob = tuple[float, tuple[tuple[int, float], ...]]
"""A token's log-probability (nats), and the likeliest tokens at its position with theirs."""


class WantedAnswer(TypedDict):
    """How an answer in a chat is told apart: see `AnswerParser`. tools: by the function's name.
    plain: its content obeys something, so that nothing else is looked for in it.
    """

    begun: str
    plain: bool
    tools: Mapping[str, Any] | None
    single: bool


class Wanted(TypedDict):
    """What a choice shows. logprobs: alternatives per token; None for no log-probabilities.

    answer: None if all of it is its text.
    """

    echo: bool
    logprobs: int | None
    stop: Sequence[str]
    min_tokens: int
    skip_special_tokens: bool
    answer: WantedAnswer | None


class Past(TypedDict):
    """What has been told of a choice: tokens of the answer, and before them those of the prompt, if
    it was to be echoed.

    prompt: how many of its tokens.   logprobs: those of the last of both, whose entries were not
    shown yet.
    """

    prompt: int
    tokens: Sequence[int]
    logprobs: Sequence[TokenLogprob | None]
