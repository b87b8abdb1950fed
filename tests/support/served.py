"""The architectures of transformers that are served, each with a tiny config. Builds no model."""

from typing import Any

from transformers import CONFIG_MAPPING

from tests.support.checkpoints import ARCHITECTURES, DEFAULT_ROPE, HYBRIDS

TRANSFORMERS = "5.23"
"""The version whose architectures these are."""
SERVED = (
    "afmoe",
    "aria",
    "aria_text",
    "axk1",
    "bailing_hybrid",
    "cohere2_moe",
    "deepseek_v2",
    "deepseek_v3",
    "dots1",
    "ernie4_5_moe",
    "exaone_moe",
    "flex_olmo",
    "flint",
    "gemma4",
    "gemma4_text",
    "glm4_moe",
    "glm4_moe_lite",
    "glm4v_moe",
    "gpt_oss",
    "granitemoe",
    "granitemoe_swa",
    "granitemoehybrid",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "hy_v3",
    "jamba",
    "kimi_linear",
    "kolibri1",
    "laguna",
    "lfm2_moe",
    "mellum",
    "mimo_v2_flash",
    "minimax_m2",
    "minimax_m3_vl",
    "minimax_m3_vl_text",
    "mistral4",
    "mixtral",
    "nemotron_h",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_vl_moe",
    "solar_open",
    "switch_transformers",
)
"""Model types that fit, as docs/architectures.md lists them."""
AT_ONCE = ("jamba", "switch_transformers")
"""Those of them whose prompts are computed in one step each."""

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
    "bailing_hybrid": {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "doge": {"is_moe": True, "num_experts": 16},
    "gemma4_text": {**ARCHITECTURES["gemma4"], **ROPE_BY_LAYER_TYPE},
    "glm4v_moe": {
        "rope_parameters": {
            **DEFAULT_ROPE,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 0],
        }
    },
    "laguna": ROPE_BY_LAYER_TYPE,
    "mellum": ROPE_BY_LAYER_TYPE,
    "mimo_v2_flash": ROPE_BY_LAYER_TYPE | {"num_key_value_heads": 2},
    "mistral4": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "llama_4_scaling_beta": 0.1,
        },
    },
}
TINY_TOWER: dict[str, Any] = {
    "depth": 1,
    "head_dim": 8,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "out_hidden_size": 32,
}
"""Fields that make a tower for images small."""
TOWER_TYPES = {"aria": "idefics3_vision"}
"""Of a tower for images, where the wrapper's class does not say."""
MULTI_HEAD_LATENT = "kv_lora_rank"


def served_fields(model_type: str) -> dict[str, Any]:
    """What `tiny_config` and `tiny_model` have to be told for a model of this type."""
    if model_type in ARCHITECTURES or model_type in HYBRIDS:
        return {}
    kind: Any = CONFIG_MAPPING[model_type]
    parts = dict(kind.sub_configs)
    tiny = _known(TINY, parts.get("text_config", kind))
    if MULTI_HEAD_LATENT in tiny:
        tiny["num_key_value_heads"] = 4
    if "text_config" in parts:
        tower_type = TOWER_TYPES.get(model_type)
        tower = CONFIG_MAPPING[tower_type] if tower_type else parts.get("vision_config")
        fields = _known(TINY_TOWER, tower) if tower is not None else {}
        named = {"model_type": tower_type} if tower_type else {}
        tiny["towers"] = {"vision_config": {**named, **fields}}
    return tiny | OWN.get(model_type, {})


def _known(fields: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The fields that a config class has; none if it stands for any."""
    known = getattr(kind, "__dataclass_fields__", {}).keys()
    known |= getattr(kind, "attribute_map", {}).keys()
    return {name: value for name, value in fields.items() if name in known}
