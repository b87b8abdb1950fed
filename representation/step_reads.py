"""How many bytes of experts a decode step reads on average. Plain numbers: no release, no plan.

Every expert of a layer is as likely as another, and tokens choose independently. Real routers have
favourites, so a real step reads somewhat less.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from representation.text_fields import text_fields

SEQUENCES = 4
"""Sequences of each model in the decode step for which bytes are stated and plans are made."""
FIELDS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_k",
)
"""Fields of configs that say to how many experts a token goes."""
TOP_1 = ("switch_transformers",)
"""Encoder–decoders whose tokens go to one expert each, which their configs do not say."""

ENCODER = "encoder"
"""What the encoder of an encoder–decoder is called among the modules of transformers."""


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """A step with one token of each sequence. sequences: of each model.

    has_encoder: whether an encoder runs before the first step, and in none.
    """

    experts_per_token: int = 2
    sequences: int = SEQUENCES
    has_encoder: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DecodeStep":
        """That of a model with this config, as JSON values; 2 experts if it does not say."""
        text = text_fields(config)
        if text.get("model_type") in TOP_1:
            return cls(1, has_encoder=True)
        found = (text.get(field) for field in FIELDS)
        return cls(next((int(one) for one in found if isinstance(one, int) and one > 0), 2))

    def reads(self, module: str) -> bool:
        """Whether a step computes an experts module, by its name in the model."""
        return not (self.has_encoder and ENCODER in module.split("."))

    def tokens_of_expert(self, num_experts: int) -> float:
        """How many tokens of a model's sequences go to one of its experts, on average."""
        return self.sequences * min(1.0, self.experts_per_token / num_experts)

    def chance(self, users: Iterable[int], num_experts: int) -> float:
        """How likely it is that a step reads a part.

        users: for each model, how many of its experts have the part.
        num_experts: of a model, in the layer of the part.
        """
        missed = 1.0
        chosen = min(self.experts_per_token, num_experts)
        for count in users:
            by_token = comb(num_experts - count, chosen) / comb(num_experts, chosen)
            missed *= by_token**self.sequences
        return 1.0 - missed


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One layer of a pool. slots, residuals: bytes of each, as a device holds them.

    models: for each model, the parts of each of its experts: of the slot, and the residuals.
    """

    slots: Sequence[int]
    residuals: Sequence[int]
    models: Sequence[Sequence[tuple[Collection[int], Collection[int]]]]


def bytes_read(layers: Iterable[LayerParts], step: DecodeStep) -> int:
    """Bytes of all parts that a step reads, each once however many tokens need it."""
    return round(sum(_of_layer(layer, step) for layer in layers))


def _of_layer(layer: LayerParts, step: DecodeStep) -> float:
    users: dict[tuple[bool, int], dict[int, int]] = {}
    for model, experts in enumerate(layer.models):
        for slot, residuals in experts:
            for part in [*((False, one) for one in slot), *((True, one) for one in residuals)]:
                counts = users.setdefault(part, {})
                counts[model] = counts.get(model, 0) + 1
    num_experts = max(map(len, layer.models), default=0)
    return sum(
        (layer.residuals if is_residual else layer.slots)[index]
        * step.chance(counts.values(), num_experts)
        for (is_residual, index), counts in users.items()
    )
