"""Made-up variants of Mixtral, each with one thing that is not served. For tests of refusals."""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.models.mixtral import modeling_mixtral

mixtral: Any = modeling_mixtral  # its classes, untyped: signatures here are as short as they can be


class NormAfterExperts(mixtral.MixtralExperts):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.has_post_expert_norm = True


class ScaledExperts(mixtral.MixtralExperts):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("scales", torch.ones(config.num_local_experts))


class NamelessExperts(mixtral.MixtralExperts):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        del self.down_proj


class UnevenExperts(mixtral.MixtralExperts):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_parameter("down_proj", nn.Parameter(torch.empty(1, 32, 24)))


class CubicExperts(mixtral.MixtralExperts):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_parameter("down_proj", nn.Parameter(torch.empty(4, 1, 32, 24)))


class OwnAttention(mixtral.MixtralAttention):
    def forward(self, hidden_states: Any, past_key_values: Any = None, **_: Any) -> Any:
        return hidden_states, None


class AskingAttention(mixtral.MixtralAttention):
    def forward(self, hidden_states: Any, past_key_values: Any = None, **_: Any) -> Any:
        return past_key_values.update(hidden_states, hidden_states, 0)[0], None


def first_of_layers(kind: Any) -> tuple[str, Any]:
    """A decoder layer that has such a mixer if it is the first one."""

    class Layer(mixtral.MixtralDecoderLayer):
        def __init__(self, config: Any, layer_idx: int) -> None:
            super().__init__(config, layer_idx)
            if layer_idx == 0:
                self.self_attn = kind(config, layer_idx)

    return "MixtralDecoderLayer", Layer


class ShortConvolution(mixtral.MixtralAttention):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.conv = nn.Conv1d(2, 2, 3)


class ForgettingMixer(nn.Module):
    """Keeps the last token, and gives the sum of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor, past_key_values: Any = None) -> torch.Tensor:
        before = past_key_values.get_recurrent_state(0)
        out = (x * self.factor).cumsum(dim=1) + (0 if before is None else before)
        past_key_values.update_recurrent_state(x[:, -1:], 0)
        return out


class Forgetting(nn.Module):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.mixer = ForgettingMixer(config.hidden_size)

    def forward(self, hidden_states: Any, past_key_values: Any = None, **_: Any) -> Any:
        return self.mixer(hidden_states, past_key_values=past_key_values), None


class TwiceAttending(mixtral.MixtralDecoderLayer):
    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        once, _ = self.self_attn(hidden_states=hidden_states, **kwargs)
        return super().forward(hidden_states + once, **kwargs)


class HiddenBuffer(mixtral.MixtralDecoderLayer):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.register_buffer("table", torch.ones(3), persistent=False)


class GatedAttention(mixtral.MixtralAttention):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.gate = nn.Parameter(torch.empty(3))


class UncalledNorm(mixtral.MixtralDecoderLayer):
    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.spare_norm = nn.LayerNorm(3)


class MeanNorm(mixtral.MixtralRMSNorm):
    def forward(self, hidden_states: torch.Tensor) -> Any:
        return super().forward(hidden_states).mean(dim=1)


class MeanLayer(mixtral.MixtralDecoderLayer):
    """A module with weights that makes one vector of all tokens."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mean = MeanNorm(config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        out = super().forward(hidden_states, **kwargs)
        return out + self.mean(out).unsqueeze(1)


class BiasedAttention(mixtral.MixtralAttention):
    """Its parent's forward calls ALL_ATTENTION_FUNCTIONS with whatever it is given."""

    def forward(self, hidden_states: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        """What is handed on to ALL_ATTENTION_FUNCTIONS."""
        bias = hidden_states.new_zeros(1)
        kwargs |= {"past_key_values": past_key_values, "position_bias": bias, "cap": None}
        return super().forward(hidden_states, **kwargs)


class MaskedAttention(mixtral.MixtralAttention):
    def forward(
        self, hidden_states: Any, attention_mask: Any, past_key_values: Any = None, **kwargs: Any
    ) -> Any:
        """Hands ALL_ATTENTION_FUNCTIONS a mask of its own."""
        mask = torch.cat([attention_mask, attention_mask], dim=1)
        kwargs |= {"past_key_values": past_key_values, "attention_mask": mask}
        return super().forward(hidden_states, **kwargs)


class SilentAttention(mixtral.MixtralAttention):
    def forward(self, hidden_states: Any, past_key_values: Any = None, **_: Any) -> Any:
        """Speaks of ALL_ATTENTION_FUNCTIONS and calls none."""
        return self.o_proj(self.q_proj(hidden_states)), None


class BatchedExperts(mixtral.MixtralSparseMoeBlock):
    """Hands its experts a batch of sequences, where a row per token is due."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.experts.register_forward_pre_hook(lambda _, args: tuple(x[None] for x in args))


class ScalingExperts(mixtral.MixtralSparseMoeBlock):
    """Hands its experts an argument that the interface does not know."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.experts.register_forward_pre_hook(
            lambda _, args, kwargs: (args, kwargs | {"scale": 2.0}), with_kwargs=True
        )


class LookingRouter(mixtral.MixtralTopKRouter):
    """Does what depends on the data."""

    def forward(self, hidden_states: torch.Tensor) -> Any:
        return super().forward(hidden_states * hidden_states.max().item())


class NamedRotary(mixtral.MixtralRotaryEmbedding):
    def __init__(self, *, config: Any) -> None:
        super().__init__(config)


MADE_UP: dict[str, tuple[str, Any]] = {
    "a norm after each expert": ("MixtralExperts", NormAfterExperts),
    "a buffer beside the experts": ("MixtralExperts", ScaledExperts),
    "experts without their second matrix": ("MixtralExperts", NamelessExperts),
    "matrices of different numbers of experts": ("MixtralExperts", UnevenExperts),
    "experts of more than matrices": ("MixtralExperts", CubicExperts),
    "a mixer that forgets": first_of_layers(Forgetting),
    "attention of its own": first_of_layers(OwnAttention),
    "a convolution over tokens": ("MixtralAttention", ShortConvolution),
    "attention that asks for keys and values": first_of_layers(AskingAttention),
    "a layer that attends twice": ("MixtralDecoderLayer", TwiceAttending),
    "a buffer that no checkpoint holds": ("MixtralDecoderLayer", HiddenBuffer),
    "attention with weights of its own": ("MixtralAttention", GatedAttention),
    "weights of a module that is not called": ("MixtralDecoderLayer", UncalledNorm),
    "a module that does not map tokens to tokens": ("MixtralDecoderLayer", MeanLayer),
    "an unknown keyword for attention": ("MixtralAttention", BiasedAttention),
    "a mixer that calls no attention": ("MixtralAttention", SilentAttention),
    "experts that get more than rows": ("MixtralSparseMoeBlock", BatchedExperts),
    "a mask of its own": ("MixtralAttention", MaskedAttention),
    "a mask that is not causal": (
        "create_causal_mask",
        partial(mixtral.create_causal_mask, or_mask_function=lambda _b, _h, _q, key: key < 4),
    ),
    "a forward that looks at the data": ("MixtralTopKRouter", LookingRouter),
    "a rotary module that a config alone does not make": ("MixtralRotaryEmbedding", NamedRotary),
}
"""What is not served -> the name in transformers' module for Mixtral, and what is there instead."""
