"""What a model may ask of attention: its shape, its mask, its keywords. Computes none.

A stock model's attention modules call a function of `AttentionInterface` with their own keywords.
The engine must know each one: ignoring one would give wrong results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

IGNORED = frozenset(
    {
        "dropout",  # none outside training
        "output_attentions",  # changes what is returned, not what is computed
        "output_hidden_states",
        "output_router_logits",
        "position_ids",  # already applied to queries and keys
        "sliding_window",  # the mask has it
        "use_cache",  # keys and values are always kept
    }
)
"""Keywords besides `scaling`, `s_aux` and `softcap` that do not change the result."""


BIAS = "position_bias"
"""Of modules such as T5's: it is what their table gives, or zeros where a stack has no table."""
OF_BIASES = "has_relative_attention_bias"
"""What such modules have."""
FAR = 1 << 20
"""In tokens; no useful window is as long."""


Sees = Literal["before", "input", "encoder"]
"""What a token sees: itself and those before it; of an encoder's input, all tokens; or, in a
decoder, what came out of the encoder."""


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """Which keys the tokens of a layer see, and how. window: how many of the last; None: all.

    bias: the module whose table gives the bias of its scores; None: they have none.
    """

    sees: Sees
    window: int | None = None
    bias: str | None = None

    @property
    def is_stored(self) -> bool:
        """Whether keys and values of earlier steps are seen."""
        return self.sees != "input"


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads and dimensions of one attention layer. softcap: on its scores; None: no cap."""

    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    softcap: float | None = None

    @property
    def width(self) -> int:
        """Numbers stored for one token."""
        return self.kv_heads * (self.key_dim + self.value_dim)


def unknown_keywords(module: object, others: Mapping[str, Any]) -> str | None:
    """What is wrong with the other keywords with which a module calls attention; None: nothing.

    A keyword that is None asks for nothing.
    """
    ignored = IGNORED | {BIAS} if hasattr(module, OF_BIASES) else IGNORED
    unknown = [key for key, value in others.items() if value is not None and key not in ignored]
    if not unknown:
        return None
    names = ", ".join(map(repr, sorted(unknown)))
    return f"{type(module).__name__} calls attention with {names}, which is not served"


def is_causal(mask_function: Callable[..., Any], window: int | None) -> bool:
    """Whether a mask lets each token see itself and those before it, the last `window` in all.

    mask_function: transformers' own, of batch, head, query and key; asked about a few of them,
    around multiples of the window and at distances up to `FAR`.
    """
    near = window or 64
    at = {around + step for around in (near, 2 * near) for step in (-1, 0, 1)}
    with torch.device("cpu"):
        positions = torch.tensor(sorted({0, *at, *(1 << n for n in range(FAR.bit_length()))}))
        queries, keys = positions.unsqueeze(1), positions.unsqueeze(0)  # (n, 1), (1, n)
        expected = keys <= queries  # (n, n)
        if window is not None:
            expected = expected & (keys > queries - window)
        zero = torch.tensor(0)
        found = mask_function(zero, zero, queries, keys)
    return bool((found == expected).all())
