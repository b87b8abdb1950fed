"""A model as a GGUF file is the model: read back by the package of llama.cpp's own project."""

from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.bench.arms.gguf_file import why_not, write_gguf
from serve_app.bench.arms.unmerged import Unmerged
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.weights.shapes import SHAPES
from tests.bench.tiny import tiny_config

CONFIG = tiny_config(hidden_size=64, intermediate_size=96)
SOURCE = Unmerged(RandomSpec(CONFIG, 2, "bfloat16").open(), ["m1"])
HEAD_DIM = 16


class ReadBack:
    """A file's tensors, as numbers, and its facts."""

    def __init__(self, path: Path, precision: str) -> None:
        gguf = pytest.importorskip("gguf", reason="needs pip install 'expertpool[bench]'")
        write_gguf(path, SOURCE, "m1", precision)
        reader = gguf.GGUFReader(path)
        self.kinds = {one.name: one.tensor_type.name for one in reader.tensors}
        self.facts = {name: one.contents() for name, one in reader.fields.items()}
        self.tensors = {
            one.name: torch.tensor(gguf.quants.dequantize(one.data, one.tensor_type))
            for one in reader.tensors
        }


def backbone() -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in SOURCE.read_backbone("m1")}


def test_a_file_has_the_model_s_own_numbers(tmp_path: Path) -> None:
    found = ReadBack(tmp_path / "m1.gguf", "BF16")
    assert len(found.tensors) == 3 + 2 * 10
    own = backbone()
    same = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
        "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
        "blk.1.ffn_gate_inp.weight": "model.layers.1.mlp.gate.weight",
    }
    for name, its in same.items():
        assert torch.equal(found.tensors[name], own[its]), name
    expert = SOURCE.read_slot(1, SOURCE.models["m1"].expert_map[1][2])
    gate, up = expert["gate_up_proj"].float().chunk(2)
    assert torch.equal(found.tensors["blk.1.ffn_gate_exps.weight"][2], gate)
    assert torch.equal(found.tensors["blk.1.ffn_up_exps.weight"][2], up)
    assert torch.equal(found.tensors["blk.1.ffn_down_exps.weight"][2], expert["down_proj"].float())


@pytest.mark.parametrize(("theirs", "ours"), [("attn_q", "q_proj"), ("attn_k", "k_proj")])
def test_rows_that_are_turned_together_lie_side_by_side(
    theirs: str, ours: str, tmp_path: Path
) -> None:
    found = ReadBack(tmp_path / "m1.gguf", "BF16").tensors[f"blk.0.{theirs}.weight"]
    own = backbone()[f"model.layers.0.self_attn.{ours}.weight"]
    for head in range(len(own) // HEAD_DIM):
        first = head * HEAD_DIM
        for pair in range(HEAD_DIM // 2):
            assert torch.equal(found[first + 2 * pair], own[first + pair])
            assert torch.equal(found[first + 2 * pair + 1], own[first + pair + HEAD_DIM // 2])


@pytest.mark.parametrize(("precision", "error"), [("Q8_0", 0.01), ("Q4_0", 0.15)])
def test_matrices_are_rounded_and_norms_and_routers_are_not(
    precision: str, error: float, tmp_path: Path
) -> None:
    found = ReadBack(tmp_path / "m1.gguf", precision)
    exact = {name for name, kind in found.kinds.items() if kind == "F32"}
    assert exact == {name for name in found.kinds if "norm" in name or "gate_inp" in name}
    assert {kind for name, kind in found.kinds.items() if name not in exact} == {precision}
    own = backbone()["lm_head.weight"]
    missed = (found.tensors["output.weight"] - own).norm() / own.norm()
    assert error / 10 < missed < error


def test_a_file_states_the_shape(tmp_path: Path) -> None:
    facts = ReadBack(tmp_path / "m1.gguf", "BF16").facts
    expected: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": HEAD_DIM,
        "llama.rope.dimension_count": HEAD_DIM,
        "llama.rope.freq_base": 1e6,
        "llama.expert_count": 4,
        "llama.expert_used_count": 2,
        "llama.vocab_size": 320,
    }
    assert {name: facts[name] for name in expected} == expected
    assert facts["tokenizer.ggml.tokens"][7] == "▁7"
    assert len(facts["tokenizer.ggml.tokens"]) == 320


@pytest.mark.parametrize(
    ("config", "precision", "why"),
    [
        (CONFIG, "Q4_0", None),
        (tiny_config(), "BF16", None),
        (tiny_config(), "Q8_0", "Q8_0 has blocks of 32 columns; intermediate_size is 48"),
        (
            SHAPES["olmoe-1b-7b"].config(1),
            "BF16",
            "only Mixtral is written as GGUF here, not olmoe",
        ),
        (
            tiny_config(sliding_window=128),
            "BF16",
            "llama.cpp knows no sliding window of Mixtral; this one's is 128",
        ),
        (
            tiny_config(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "BF16",
            "rotary embeddings of type 'linear' are not written as GGUF here",
        ),
    ],
)
def test_what_cannot_be_written_is_said_before(
    config: dict[str, Any], precision: str, why: str | None
) -> None:
    assert why_not(config, precision) == why
