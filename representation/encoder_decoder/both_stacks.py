"""How an encoder–decoder model is called with packed tokens. Replaces no module of it."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import MoEModelOutputWithPastAndCrossAttentions


class WrittenBefore(EncoderDecoderCache):
    """Tells cross-attention that what it reads of encoders is stored already, so it computes none.

    nothing: (1, heads, 0, D), what it then finds.
    """

    def __init__(self, nothing: torch.Tensor) -> None:
        super().__init__(DynamicCache(), DynamicCache())
        self.is_updated = _Every()
        self.cross_attention_cache: Any = _Layers(nothing)


class _Every(dict[int, bool]):
    """All layers are up to date."""

    def get(self, key: int, default: Any = None) -> Any:
        return True


class _Layers:
    """Each layer has the same."""

    def __init__(self, nothing: torch.Tensor) -> None:
        self.keys = self.values = nothing
        self.layers = self

    def __getitem__(self, index: int) -> "_Layers":
        return self


def is_encoder_decoder(model: Any) -> bool:
    """Whether a model of transformers has an encoder, whose output its decoder attends to."""
    return bool(model.config.is_encoder_decoder)


def run_both(
    model: Any, encoder_ids: torch.Tensor, ids: torch.Tensor, width: int, nothing: torch.Tensor
) -> Any:
    """One forward of both stacks, without a cache.

    encoder_ids: (1, E)   ids: (1, T)   width: of the encoder's output   nothing: see WrittenBefore
    Where E is 0, the encoder does not run.
    """
    if encoder_ids.shape[1]:
        return model(input_ids=encoder_ids, decoder_input_ids=ids, use_cache=False)
    empty = nothing.new_empty((1, 0, width))
    return model(
        encoder_outputs=MoEModelOutputWithPastAndCrossAttentions(last_hidden_state=empty),
        decoder_input_ids=ids,
        past_key_values=WrittenBefore(nothing),
        use_cache=False,
    )


def choose_outputs(model: Any, index: Callable[[], torch.Tensor]) -> Any:
    """Let the head compute only the tokens that `index` gives, (n,) int64. -> undoes it"""

    def chosen(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0].index_select(1, index()), *args[1:])

    return model.get_output_embeddings().register_forward_pre_hook(chosen)
