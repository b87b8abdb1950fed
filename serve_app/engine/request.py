"""Requests to the engine, and its answers. Values; tokens only, no text."""

from dataclasses import dataclass
from typing import NamedTuple

from serve_app.errors import EngineError
from serve_app.grammar.vocabulary import Grammar
from serve_app.service_class import ServiceClass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. The defaults sample from the model as it is.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 filter nothing; penalties as in the
    OpenAI API (presence, frequency: of generated tokens) and transformers (repetition: of prompt
    and generated tokens). logprobs: how many of the likeliest tokens to report besides the chosen
    one; None reports nothing. Log-probabilities are the model's own, before any of these.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for one model of one release. Lengths are in tokens.

    With `max_tokens` 0 only the prompt is computed. prompt_logprobs: like `Sampling.logprobs`, for
    the prompt's own tokens. A stop token ends the answer once `min_tokens` have come before it.
    weight: of the tenant; twice the weight is twice the share of the steps.
    deadline: on the engine's clock; what has not ended then fails with DeadlineMissed.
    chunk_tokens: the most of its prompt that a step computes, so that it delays others little.
    grammar: that the answer obeys. A stop token comes only where the grammar accepts, and where
    nothing else may come, the answer ends, even before `min_tokens`.
    """

    id: str
    release: str
    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    prompt_logprobs: int | None = None
    tenant: str = "default"
    weight: float = 1.0
    priority: int = 0
    service_class: ServiceClass = ServiceClass.STANDARD
    deadline: float | None = None
    chunk_tokens: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log-probability (nats), and the likeliest tokens at its position with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Token(NamedTuple):
    """One generated token. `finish` at the end is "stop" (the token is a stop token), "complete"
    (the grammar lets nothing follow) or "length".

    token is -1 if none was requested (`max_tokens` 0). The first token of a request has queued_s,
    how long it waited before anything was computed, and num_cached, how many tokens of its prompt
    were already computed.
    """

    request: str
    token: int
    logprob: Logprob | None
    finish: str | None
    queued_s: float | None = None
    num_cached: int = 0


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The log-probability of each prompt token; None for the first. Comes before any `Token`."""

    request: str
    logprobs: tuple[Logprob | None, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ends here without an answer."""

    request: str
    error: EngineError


Event = Token | PromptLogprobs | Failed
