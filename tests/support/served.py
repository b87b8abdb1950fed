"""The architectures of transformers that are served, each with a tiny config. Builds no model."""

import dataclasses
from typing import Any

from transformers import CONFIG_MAPPING

from tests.support.checkpoints import ARCHITECTURES, DEFAULT_ROPE, HYBRIDS

TRANSFORMERS = "5.23"
"""The version whose architectures these are."""
SERVED = (
    "afmoe",
    "aria_text",
    "axk1",
    "cohere2_moe",
    "deepseek_v2",
    "deepseek_v3",
    "dots1",
    "ernie4_5_moe",
    "exaone_moe",
    "flex_olmo",
    "flint",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt_oss",
    "granitemoe",
    "granitemoe_swa",
    "granitemoehybrid",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "hy_v3",
    "kimi_linear",
    "kolibri1",
    "laguna",
    "lfm2_moe",
    "mellum",
    "mimo_v2_flash",
    "minimax_m2",
    "minimax_m3_vl_text",
    "mixtral",
    "nemotron_h",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_moe",
    "qwen3_next",
    "solar_open",
)
"""Model types of language models that fit, as docs/limits.md lists them."""

TINY: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "intermediate_size": 24,
    "kv_lora_rank": 16,
    "moe_intermediate_size": 24,
    "moe_k": 2,
    "moe_num_experts": 8,
    "moe_num_shared_experts": 1,
    "moe_topk": 2,
    "n_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_dense_layers": 1,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "num_shared_experts": 1,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "sliding_window": 8,
    "topk_group": 1,
    "v_head_dim": 16,
}
"""Fields that make a mixture of experts small; a config class is given those that it has."""
ROPE_BY_LAYER_TYPE = {
    "rope_parameters": {
        "full_attention": dict(DEFAULT_ROPE),
        "sliding_attention": dict(DEFAULT_ROPE),
    }
}
OWN: dict[str, dict[str, Any]] = {
    "laguna": ROPE_BY_LAYER_TYPE,
    "mellum": ROPE_BY_LAYER_TYPE,
    "mimo_v2_flash": ROPE_BY_LAYER_TYPE | {"num_key_value_heads": 2},
}
MULTI_HEAD_LATENT = "kv_lora_rank"


def served_fields(model_type: str) -> dict[str, Any]:
    """What `tiny_config` and `tiny_model` have to be told for a model of this type."""
    if model_type in ARCHITECTURES or model_type in HYBRIDS:
        return {}
    kind: Any = CONFIG_MAPPING[model_type]
    known = {field.name for field in dataclasses.fields(kind)} | kind.attribute_map.keys()
    tiny = {name: value for name, value in TINY.items() if name in known}
    if MULTI_HEAD_LATENT in tiny:
        tiny["num_key_value_heads"] = 4
    return tiny | OWN.get(model_type, {})
