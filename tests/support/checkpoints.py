"""Tiny random checkpoints of real architectures, as Hugging Face directories. Not trained."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedTokenizerFast

from representation.architecture.config import model_classes

COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MLA: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3},
    "qwen2_moe": {
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "head_dim": 16,
    },
    "gpt_oss": {
        "intermediate_size": 24,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "granitemoe": {
        "intermediate_size": 24,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.25,
        "tie_word_embeddings": True,
    },
    "phimoe": {
        "intermediate_size": 24,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
        "head_dim": 8,
    },
    "deepseek_v3": {
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        **MLA,
    },
    "glm4_moe": {
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "head_dim": 8,
        "use_qk_norm": True,
        "partial_rotary_factor": 0.5,
    },
    "gemma4": {
        "num_hidden_layers": 4,
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "enable_moe_block": True,
        "num_experts": 8,
        "top_k_experts": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "final_logit_softcapping": 3.0,
        "use_bidirectional_attention": "vision",
        "tie_word_embeddings": True,
    },
    "qwen3_vl_moe": {
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "mlp_only_layers": [1],
        "head_dim": 16,
    },
}
"""Overrides of `COMMON`, by `model_type`; small, and odd where oddness finds mistakes. Of wrappers,
they are those of the text model.
"""
TOWERS: dict[str, dict[str, Any]] = {
    "gemma4": {
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "position_embedding_size": 64,
        },
        "image_token_id": 310,
        "video_token_id": 311,
        "audio_token_id": 312,
    },
    "qwen3_5_moe": {
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
        },
        "image_token_id": 310,
        "video_token_id": 311,
    },
    "qwen3_vl_moe": {
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        "image_token_id": 310,
        "video_token_id": 311,
    },
}
"""What wrappers have beside the config of their text model, by `model_type`."""


def _ropes(architecture: str, rope: dict[str, Any]) -> dict[str, Any]:
    """Rope parameters as the architecture has them: for each type of layer, or in sections."""
    if architecture == "qwen3_vl_moe":
        return {**rope, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    if architecture == "qwen3_5_moe":
        return {**rope, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    if architecture == "gemma4":
        far = {"rope_type": "proportional", "partial_rotary_factor": 0.25}
        return {"sliding_attention": rope, "full_attention": {**rope, **far}}
    return rope


DELTA: dict[str, Any] = {
    "initializer_range": 0.1,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}
"""Gated DeltaNet beside attention."""
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": DELTA,
    "qwen3_5_moe": DELTA,
    "qwen3_5_moe_text": DELTA,
    "granitemoehybrid": {
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "attention"] * 2,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 24,
        "shared_intermediate_size": 24,
    },
    "nemotron_h": {
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "moe", "full_attention"] * 2,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 2,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "moe_shared_expert_intermediate_size": 24,
        "head_dim": 8,
    },
    "lfm2_moe": {
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention"] * 2,
        "num_dense_layers": 1,
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    "kimi_linear": {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_heads": 4,
        "linear_head_dim": 8,
        "intermediate_size": 40,
        "moe_intermediate_size": 24,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        **MLA,
        "q_lora_rank": None,
        "v_head_dim": 8,
    },
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "intermediate_size": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
}
"""The same for families with recurrent mixers beside attention, two layers of each at least."""
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "switch_transformers": {
        "vocab_size": 320,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 24,
        "num_heads": 4,
        "num_layers": 4,
        "num_decoder_layers": 4,
        "num_sparse_encoder_layers": 2,
        "num_sparse_decoder_layers": 2,
        "num_experts": 4,
        "expert_capacity": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
}
"""Whole configs, not overrides of `COMMON`. Every second layer of both stacks has experts, and an
input of a few dozen tokens has more for an expert than its capacity.
"""


def tiny_config(architecture: str, towers: Any = None, **overrides: Any) -> Any:
    """A transformers config of a few thousand parameters; of any other architecture too, where
    `overrides` say what it needs, and `towers` what a wrapper has beside its text model.
    """
    if architecture in ENCODER_DECODERS:
        own = {**ENCODER_DECODERS[architecture], **overrides}
        return AutoConfig.for_model(architecture, **own)
    fields: dict[str, Any] = {
        **COMMON,
        "rope_parameters": dict(DEFAULT_ROPE),
        **ARCHITECTURES.get(architecture, {}),
        **HYBRIDS.get(architecture, {}),
        **overrides,
    }
    towers = TOWERS.get(architecture) if towers is None else towers
    if towers is None:
        return AutoConfig.for_model(architecture, **fields)
    fields["rope_parameters"] = _ropes(architecture, fields["rope_parameters"])
    others = {**towers, "tie_word_embeddings": fields["tie_word_embeddings"]}
    return AutoConfig.for_model(architecture, text_config=fields, **others)


def tiny_model(architecture: str, seed: int = 0, **overrides: Any) -> Any:
    """A random model in float32; every parameter and buffer differs between seeds."""
    config = tiny_config(architecture, **overrides)
    torch.manual_seed(seed)
    model = _class_of(config)._from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in sorted(model.state_dict().items()):
            # Norms, biases, sinks and correction buffers start out equal: move them apart.
            if tensor.dim() == 1:
                noise = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor.add_(noise.to(tensor.dtype))
        if architecture in ENCODER_DECODERS:
            # Of tied embeddings, a token that says much of itself is answered again and again.
            model.shared.weight.mul_(0.1)
            model.decoder.final_layer_norm.weight.mul_(24.0)
    return model.eval()


def loaded(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A checkpoint as transformers loads it: of a wrapper, all towers."""
    kind = _class_of(AutoConfig.from_pretrained(directory))
    return kind.from_pretrained(directory, dtype=dtype)


def _class_of(config: Any) -> Any:
    """transformers' class for what is generated from a config of this kind."""
    return model_classes(config)[-1]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes: ids 0..2 are pad, bos and eos, byte b is 3 + b. Adds bos by default."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "<s>", "</s>"]
    vocab = {token: index for index, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = (
        "{{ bos_token }}{% for message in messages %}"
        "{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    return fast


def write_checkpoint(
    directory: Path,
    architecture: str,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    tokenizer: bool = True,
    **overrides: Any,
) -> Path:
    """Write a tiny random model (and a byte tokenizer) as `save_pretrained` does; return its path.

    Checkpoints are written in the layout of the architecture's own releases: per-expert 2-D
    tensors where those have them, fused 3-D ones elsewhere.
    """
    model = tiny_model(architecture, seed, **overrides).to(dtype)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    if tokenizer:
        byte_tokenizer().save_pretrained(directory)
    return directory
