"""Writes a model of a release as a GGUF file, which llama.cpp reads. Mixtral only; serves nothing.

Names of tensors and facts, and the order of rows in queries and keys, are what llama.cpp's own
converter writes for Mixtral (`convert_hf_to_gguf.py`). The vocabulary is made up: each token's text
is its number.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from representation.architecture.config import config_of
from serve_app.engine.source import ReleaseSource

PRECISIONS = ("BF16", "Q8_0", "Q4_0")
"""Of matrices, as GGUF calls them. Norms and routers are float32, as in all files of llama.cpp."""
BLOCK = 32
"""Columns that share a scale in Q8_0 and Q4_0."""
OUTSIDE_LAYERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYERS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
}
"""What transformers calls a part of a layer, and what GGUF calls it."""
FLOAT32 = ("norm.weight", "ffn_gate_inp.weight")
"""How the names of tensors end that are never rounded."""
NORMAL = 1
"""The type of a token that is text."""


def why_not(fields: Mapping[str, Any], precision: str) -> str | None:
    """Why models of a config cannot be written in a precision, in words; None if they can."""
    if fields["model_type"] != "mixtral":
        return f"only Mixtral is written as GGUF here, not {fields['model_type']}"
    config = config_of(fields)
    if config.sliding_window is not None:
        return (
            f"llama.cpp knows no sliding window of Mixtral; this one's is {config.sliding_window}"
        )
    kind = config.rope_parameters["rope_type"]
    if kind != "default":
        return f"rotary embeddings of type {kind!r} are not written as GGUF here"
    columns = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "all heads": config.num_attention_heads * head_dim(config),
    }
    for name, number in columns.items():
        if precision != "BF16" and number % BLOCK:
            return f"{precision} has blocks of {BLOCK} columns; {name} is {number}"
    return None


def write_gguf(path: Path, source: ReleaseSource, name: str, precision: str) -> None:
    """Write one model. Holds a few tensors at a time; needs twice the file's bytes of disk.

    source: with whole dense experts, and of a config that `why_not` has nothing against.
    """
    import gguf

    config = config_of(source.models[name].config)
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=True)
    _add_facts(writer, config)
    _add_vocabulary(writer, config.vocab_size)
    kind = gguf.GGMLQuantizationType[precision]
    for tensor_name, tensor in _tensors(source, name, config):
        values = tensor.to("cpu", torch.float32).contiguous().numpy()
        if tensor_name.endswith(FLOAT32):
            writer.add_tensor(tensor_name, values)
        else:
            writer.add_tensor(tensor_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def head_dim(config: Any) -> int:
    """Columns of an attention head."""
    found: int = config.head_dim or config.hidden_size // config.num_attention_heads
    return found


def _add_facts(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: Any, size: int) -> None:
    """Words for all tokens, special ones too, so that an answer's text says its tokens."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"▁{number}" for number in range(size)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([NORMAL] * size)
    writer.add_add_bos_token(False)


def _tensors(source: ReleaseSource, name: str, config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for tensor_name, tensor in source.read_backbone(name):
        if tensor_name in OUTSIDE_LAYERS:
            yield OUTSIDE_LAYERS[tensor_name], tensor
            continue
        number, _, part = tensor_name.removeprefix("model.layers.").partition(".")
        part = IN_LAYERS[part.removesuffix(".weight")]
        if part in ("attn_q", "attn_k"):
            tensor = _pairs_side_by_side(tensor, head_dim(config))
        yield f"blk.{number}.{part}.weight", tensor
    for layer, slots in enumerate(source.models[name].expert_map):
        experts = [source.read_slot(layer, slot) for slot in slots]
        gate_up = torch.stack([expert["gate_up_proj"] for expert in experts])  # (E, 2·I, H)
        gate, up = gate_up.chunk(2, dim=1)
        yield f"blk.{layer}.ffn_gate_exps.weight", gate  # (E, I, H)
        yield f"blk.{layer}.ffn_up_exps.weight", up  # (E, I, H)
        down = torch.stack([expert["down_proj"] for expert in experts])
        yield f"blk.{layer}.ffn_down_exps.weight", down  # (E, H, I)


def _pairs_side_by_side(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of queries or keys in llama.cpp's order. weight: (heads · head_dim, H)

    transformers turns row i of a head together with row i + head_dim / 2, llama.cpp with row i + 1.
    """
    halves = weight.view(-1, 2, head_dim // 2, weight.shape[1])  # (heads, 2, head_dim / 2, H)
    return halves.transpose(1, 2).reshape(weight.shape)
