"""Configs of published families, and of the family of the speed targets. No weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING


@dataclass(frozen=True, slots=True)
class Shape:
    """A model type of transformers, and the fields of its config that differ from its defaults.

    parameters: of the whole model, as published.
    """

    model_type: str
    parameters: float
    fields: Mapping[str, Any]

    def config(self, num_layers: int | None = None, **others: Any) -> dict[str, Any]:
        """The config's fields, as in a manifest; with fewer layers (the last), or other fields.

        An encoder and a decoder have so many each, of which every second is sparse.
        """
        fields = dict(self.fields) | others
        if num_layers is not None and "num_decoder_layers" in fields:
            fields["num_layers"] = fields["num_decoder_layers"] = num_layers
            sparse = max(1, num_layers // 2)
            fields["num_sparse_encoder_layers"] = fields["num_sparse_decoder_layers"] = sparse
        elif num_layers is not None:
            fields["num_hidden_layers"] = num_layers
            if "layer_types" in fields:
                fields["layer_types"] = fields["layer_types"][-num_layers:]
        config: dict[str, Any] = CONFIG_MAPPING[self.model_type](**fields).to_dict()
        return config

    @property
    def num_layers(self) -> int:
        """Of a decoder."""
        return int(self.fields.get("num_decoder_layers") or self.fields["num_hidden_layers"])


SHAPES: dict[str, Shape] = {
    "mixtral-115m": Shape(
        "mixtral",
        115.4e6,
        {
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
    ),
    "mixtral-8x7b": Shape(
        "mixtral",
        46.7e9,
        {
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
        },
    ),
    "olmoe-1b-7b": Shape(
        "olmoe",
        6.92e9,
        {
            "vocab_size": 50304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3-30b-a3b": Shape(
        "qwen3_moe",
        30.5e9,
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3-moe": Shape(
        "qwen3_moe",
        484.3e6,
        {
            "vocab_size": 8192,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "moe_intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3-next": Shape(
        "qwen3_next",
        126.9e6,
        {
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1024,
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 256,
            "num_hidden_layers": 8,
            "layer_types": [*["linear_attention"] * 3, "full_attention"] * 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "max_position_embeddings": 40960,
            "tie_word_embeddings": False,
        },
    ),
    "switch": Shape(
        "switch_transformers",
        130.1e6,
        {
            "vocab_size": 8192,
            "d_model": 512,
            "d_kv": 64,
            "d_ff": 1024,
            "num_layers": 6,
            "num_decoder_layers": 6,
            "num_sparse_encoder_layers": 3,
            "num_sparse_decoder_layers": 3,
            "num_heads": 8,
            "num_experts": 16,
            "decoder_start_token_id": 0,
        },
    ),
    "qwen2-moe-57b-a14b": Shape(
        "qwen2_moe",
        57.4e9,
        {
            "vocab_size": 151936,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "moe_intermediate_size": 2560,
            "shared_expert_intermediate_size": 20480,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
        },
    ),
    "gpt-oss-20b": Shape(
        "gpt_oss",
        20.9e9,
        {
            "vocab_size": 201088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 24,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 32,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": False,
        },
    ),
    "deepseek-v2-lite": Shape(
        "deepseek_v2",
        15.7e9,
        {
            "vocab_size": 102400,
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "q_lora_rank": None,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 163840,
            "tie_word_embeddings": False,
        },
    ),
}
"""By name. `mixtral-115m` is the shape of the bars of serving; `qwen3-moe` is Qwen3-30B-A3B at half
its width in three layers, 1 GB in bfloat16; the others are published models'."""
