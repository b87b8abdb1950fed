"""A model's own generation defaults, and a request's sampling on top of them. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from representation.text_fields import text_fields
from serve_app.engine.request import Sampling
from serve_app.protocol.messages import Job

COMPLETION_MAX_TOKENS = 16
"""The default, as at OpenAI."""
_SMALLEST_TOP_P = 1e-9
"""OpenAI accepts top_p 0: only the likeliest token."""


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What applies if the client sets nothing.

    max_new_tokens: for a chat, None means the rest of the context.   alias_tokens: as an alias
    says, for chats and completions; before that.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_new_tokens: int | None
    stop_token_ids: frozenset[int]
    alias_tokens: int | None = None

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        tokenizer_eos: int | None,
    ) -> "ModelDefaults":
        """`do_sample` false means greedy; without it, the temperature is 1, as at OpenAI.

        End tokens are those of `generate()`: from the generation config, else from the config,
        else from the tokenizer.
        """
        greedy = generation.get("do_sample") is False
        return cls(
            temperature=0.0 if greedy else _or(generation.get("temperature"), 1.0),
            top_p=_or(generation.get("top_p"), 1.0),
            top_k=int(_or(generation.get("top_k"), 0)),
            min_p=_or(generation.get("min_p"), 0.0),
            repetition_penalty=_or(generation.get("repetition_penalty"), 1.0),
            max_new_tokens=generation.get("max_new_tokens"),
            stop_token_ids=_first_ids(
                generation.get("eos_token_id"),
                text_fields(config).get("eos_token_id"),
                tokenizer_eos,
            ),
        )

    def answer_tokens(self, *, chat: bool) -> int | None:
        """The length of an answer whose request gives none; None: the rest of the context."""
        own = self.max_new_tokens if chat else COMPLETION_MAX_TOKENS
        return own if self.alias_tokens is None else self.alias_tokens

    def sampling(self, job: Job, seed: int) -> Sampling:
        """Raises nothing: the ranges are already checked."""
        named = job["sampling"]
        return Sampling(
            temperature=named.get("temperature", self.temperature),
            top_p=max(named.get("top_p", self.top_p), _SMALLEST_TOP_P),
            top_k=max(int(named.get("top_k", self.top_k)), 0),
            min_p=named.get("min_p", self.min_p),
            seed=seed,
            presence_penalty=named.get("presence_penalty", 0.0),
            frequency_penalty=named.get("frequency_penalty", 0.0),
            repetition_penalty=named.get("repetition_penalty", self.repetition_penalty),
            logit_bias=tuple(sorted(job["logit_bias"].items())),
            logprobs=job["logprobs"],
        )


def choice_seed(seed: int, choice: int) -> int:
    """The seed of one of n choices, derived from the request's; the first choice uses it as it is.

    Different prompts of a request share it, so an answer does not depend on other prompts.
    """
    if choice == 0:
        return seed % 2**63
    digest = hashlib.blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**63


def _or(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _first_ids(*values: Any) -> frozenset[int]:
    for value in values:
        if value is not None:
            return frozenset(value if isinstance(value, (list, tuple)) else [value])
    return frozenset()
