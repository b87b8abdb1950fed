"""One sequence for the scheduler: its known and its computed tokens. Holds no tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from serve_app.service_class import ServiceClass

ModelKey = tuple[str, str]
"""(release, model)"""

Held = Mapping[str, tuple[int, ...]]
"""By kind of need, the units of a sequence, in order of its positions."""

Rank = tuple[int, int, float, int]


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and the tokens generated for it.

    A sequence belongs to one model for life. A smaller `priority` is earlier among those of its
    tenant and class; a larger `weight` gives its tenant a larger share. With `max_tokens=0` only
    the prompt is computed and nothing is sampled. When the known tokens exceed `recompute_at`,
    everything is computed again. `by_length`: its keys and values depend on more than the tokens
    before them. `chunk_tokens`: the most of them that one step computes. `prompt_at_once`: one step
    computes the whole prompt, and none after it more than one token, whenever that happens.
    `num_inputs`: how many first tokens of the prompt are the input of an encoder; a decoder begins
    with the others.
    `deadline`: when it is to end, computed or not, on the clock of `arrival`.

    Only the scheduler writes the fields below the blank line, and the class of one in batch that
    has waited too long. A token counts as computed once a step is planned that computes it;
    `num_pending` tokens are being sampled by such steps. `held`: by kind, the units that it holds
    (needs.py); replaced, never changed, as chunks have it too. `num_found`: tokens that were
    already computed when it began; None if nobody looked. `is_over`: nothing may be added to what
    is known once the step that is committed has counted. `prompt_len`, `num_positions`: of the
    prompt, and the most KV positions that it can need, since the last generated token is never
    computed.
    """

    id: str
    model: ModelKey
    backbone: str
    prompt: tuple[int, ...]
    max_tokens: int
    tenant: str = "default"
    weight: float = 1.0
    priority: int = 0
    service_class: ServiceClass = ServiceClass.STANDARD
    arrival: float = 0.0
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    keep_prompt_logits: bool = False
    recompute_at: int | None = None
    by_length: bool = False
    deadline: float | None = None
    chunk_tokens: int | None = None
    prompt_at_once: bool = False
    num_inputs: int = 0

    tokens: list[int] = field(init=False)
    prompt_len: int = field(init=False)
    num_positions: int = field(init=False)
    num_computed: int = field(init=False, default=0)
    num_pending: int = field(init=False, default=0)
    num_prompt_kept: int = field(init=False, default=0)
    held: Held = field(init=False, default_factory=dict)
    place: int | None = field(init=False, default=None)
    num_preemptions: int = field(init=False, default=0)
    number: int = field(init=False, default=-1)
    prefix_keys: list[tuple[str, bytes]] = field(init=False, default_factory=list)
    num_found: int | None = field(init=False, default=None)
    is_over: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError(f"sequence {self.id!r}: the prompt is empty")
        if self.max_tokens < 0 or self.min_tokens < 0:
            raise ValueError(
                f"sequence {self.id!r}: max_tokens {self.max_tokens} and min_tokens"
                f" {self.min_tokens} must not be negative"
            )
        if not 0 < self.weight < inf:
            raise ValueError(
                f"sequence {self.id!r}: weight {self.weight} must be positive and finite"
            )
        self.tokens = list(self.prompt)
        self.prompt_len = len(self.prompt)
        self.num_positions = self.prompt_len + max(self.max_tokens, 1) - 1

    @property
    def rank(self) -> Rank:
        """Among those of one tenant and model. Smaller goes first.

        By class, then by priority, then by arrival, then by order of adding.
        """
        return (self.service_class.order, self.priority, self.arrival, self.number)

    @property
    def is_batch(self) -> bool:
        return self.service_class is ServiceClass.BATCH

    @property
    def is_alike(self) -> bool:
        """Whether another sequence with the same first tokens has the same keys and values."""
        return not self.by_length and self.recompute_at is None

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def forward_len(self) -> int:
        """How many first tokens the model alone would compute in one forward pass.

        The prompt; or, after a recomputation, everything that was known then.
        """
        again = self.recompute_at
        if again is None or not self.prompt_len <= again < len(self.tokens):
            return self.prompt_len
        return again + 1

    @property
    def num_expected(self) -> int:
        """Tokens that will be known when all running steps are done, unless one ends it."""
        return len(self.tokens) + self.num_pending

    @property
    def starts_anew(self) -> bool:
        """Whether everything is recomputed for the last expected token."""
        again = self.recompute_at
        return again is not None and self.prompt_len <= again == self.num_expected - 1

    @property
    def num_missing(self) -> int:
        """Expected tokens that are still to be computed and may be at once; 1 to decode."""
        expected = min(len(self.tokens) + self.num_pending, self.num_positions)
        missing = expected - self.num_computed
        if self.prompt_at_once:
            return min(missing, 1) if self.num_computed else self.prompt_len
        return missing if self.chunk_tokens is None else min(missing, self.chunk_tokens)

    def finish_reason(self) -> Literal["stop", "complete", "length"] | None:
        """Whether the token just appended ends the sequence, and why; None if it does not.

        A stop token ends it only after `min_tokens` tokens. The first reason of these is given.
        """
        num_generated = len(self.tokens) - self.prompt_len
        if self.tokens[-1] in self.stop_token_ids and num_generated > self.min_tokens:
            return "stop"
        if self.is_over:
            return "complete"
        return "length" if num_generated >= self.max_tokens else None
