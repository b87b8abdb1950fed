import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlamaConfig

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.checkpoints.family import check_family
from consolidation.errors import Refused
from tests.support.checkpoints import ARCHITECTURES, loaded, write_checkpoint
from tests.support.quantising import assert_as_loaded, everything


def change(directory: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize(
    ("dtype", "shard"),
    [(torch.float32, "5GB"), (torch.bfloat16, "40KB"), (torch.float16, "5GB")],
    ids=["fp32", "bf16-sharded", "fp16"],
)
def test_reading_gives_what_transformers_loads(
    tmp_path: Path, architecture: str, dtype: torch.dtype, shard: str
) -> None:
    write_checkpoint(tmp_path, architecture, dtype=dtype, max_shard_size=shard, tokenizer=False)
    checkpoint = pickle.loads(pickle.dumps(open_checkpoint(tmp_path)))
    assert_as_loaded(checkpoint, loaded(tmp_path, dtype))
    found = everything(checkpoint)
    assert checkpoint.dtype == str(dtype).removeprefix("torch.")
    sizes = [t.numel() * t.element_size() for n, t in found.items() if ".experts." in n]
    assert checkpoint.expert_bytes == sum(sizes)


def test_fused_experts_are_read_as_separate_ones_are(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    separate = everything(open_checkpoint(tmp_path))
    save_file(separate, tmp_path / "model.safetensors", metadata={"format": "pt"})
    fused = open_checkpoint(tmp_path)
    assert len(fused.experts[0].parameters[0][1].sources) == 1
    again = everything(fused)
    assert all(torch.equal(again[name], tensor) for name, tensor in separate.items())


def test_a_tied_head_is_read_once_whichever_name_it_has(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False, tie_word_embeddings=True)
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    expected = everything(open_checkpoint(tmp_path))
    assert head not in expected
    change(tmp_path, lambda t: t.update({head: t[embedding].clone()}))
    assert everything(open_checkpoint(tmp_path)).keys() == expected.keys()
    change(tmp_path, lambda t: t.pop(embedding))
    assert torch.equal(everything(open_checkpoint(tmp_path))[embedding], expected[embedding])
    change(tmp_path, lambda t: t.update({embedding: t[head] + 1}))
    with pytest.raises(Refused, match="ties lm_head"):
        open_checkpoint(tmp_path)


W3 = "model.layers.1.block_sparse_moe.experts.{}.w3.weight"
NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (lambda t: t.update({"model.layers.0.extra": torch.ones(2)}), ["model.layers.0.extra"]),
        (lambda t: t.update({W3.format(4): t[W3.format(0)].clone()}), [W3.format(4), "beyond"]),
        (lambda t: t.pop(NORM), ["lacks", NORM]),
        (lambda t: t.pop(W3.format(2)), [W3.format(2), "missing"]),
        (lambda t: t.pop(W3.format(3)), [W3.format(3), "missing"]),
        (lambda t: [t.pop(W3.format(i)) for i in range(4)], ["w3", "missing"]),
        (lambda t: t.update({NORM: torch.ones(33)}), [NORM, "[33]", "[32]"]),
        (lambda t: t.update({W3.format(1): torch.ones(24, 31)}), [W3.format(1), "[24, 31]"]),
        (lambda t: t.update({W3.format(1): t[W3.format(1)].half()}), [W3.format(1), "F16"]),
        (lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)}), [NORM, "F8_E4M3"]),
        (lambda t: t.update({NORM: t[NORM].to(torch.int32)}), [NORM, "I32"]),
        (lambda t: t.update({"norm.weight": t[NORM].clone()}), ["norm.weight", "both become"]),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], names: list[str]
) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    change(tmp_path, edit)
    with pytest.raises(Refused) as caught:
        open_checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_only_what_transformers_ignores_is_ignored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "deepseek_v3", tokenizer=False)
    change(tmp_path, lambda t: t.update({"model.layers.61.eh_proj.weight": torch.ones(2, 2)}))
    open_checkpoint(tmp_path)
    change(tmp_path, lambda t: t.update({"model.layers.3.other_proj.weight": torch.ones(2, 2)}))
    with pytest.raises(Refused, match=r"model\.layers\.3\.other_proj"):
        open_checkpoint(tmp_path)


def test_a_correction_buffer_is_part_of_the_backbone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "deepseek_v3", tokenizer=False)
    names = [name for part in open_checkpoint(tmp_path).backbone for name, _ in part.tensors]
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in names
    change(tmp_path, lambda t: t.pop("model.layers.1.mlp.gate.e_score_correction_bias"))
    with pytest.raises(Refused, match="e_score_correction_bias"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("cut", [4, 200, -1])
def test_a_truncated_file_is_named(tmp_path: Path, cut: int) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Refused, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False, max_shard_size="40KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(Refused, match=shard.name):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": ["mixtral"]}, r"model_type \['mixtral'\]"),
        ({"is_encoder_decoder": True}, "no decoder_start_token_id"),
        ({"vision_config": {}}, "vision_config, which no mixtral has"),
        ({"model_type": "nobody", "auto_map": {"AutoModel": "x.Y"}}, "custom code"),
        ({"model_type": "nobody"}, "'nobody'"),
        ({"architectures": ["MixtralForSequenceClassification"]}, "SequenceClassification"),
        ({"layer_types": ["full_attention", "linear_attention", "x"]}, "linear_attention"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000 .*: more than 1024"),
        ({"text_config": {"num_layers": 1e30}}, r"num_layers is 1e\+30 "),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    change_config(tmp_path, **fields)
    with pytest.raises(Refused, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(num_hidden_layers=1), "not a mixture of experts"),
        (
            AutoConfig.for_model(
                "llama4_text", num_hidden_layers=2, layer_types=["full_attention"] * 2
            ),
            "experts interface",
        ),
        (AutoConfig.for_model("llama4_text", num_hidden_layers=2), "'chunked_attention'"),
        (AutoConfig.for_model("jamba", num_hidden_layers=2), "JambaForCausalLM has no attention"),
        (AutoConfig.for_model("t5"), "not a mixture of experts"),
        (AutoConfig.for_model("nllb-moe", decoder_start_token_id=2), "experts interface"),
        (AutoConfig.for_model("bert"), "not a mixture|mixture|attention"),
    ],
)
def test_other_kinds_of_model_are_refused_by_name(
    tmp_path: Path, config: Any, message: str
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(Refused, match=message):
        open_checkpoint(tmp_path)


def test_custom_code_beside_a_known_model_is_never_run(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    change_config(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (tmp_path / "evil.py").write_text("raise SystemExit('was run')")
    assert "auto_map" not in open_checkpoint(tmp_path).config


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(Refused, match=str(directory)):
            open_checkpoint(directory)
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(Refused, match=r"config\.json is not JSON"):
        open_checkpoint(tmp_path)


def test_configs_of_a_family_may_differ_in_vocabulary_and_rope(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "mixtral", tokenizer=False)
    write_checkpoint(
        tmp_path / "b",
        "mixtral",
        tokenizer=False,
        vocab_size=330,
        eos_token_id=[2, 5],
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
        max_position_embeddings=512,
    )
    check_family({n: open_checkpoint(tmp_path / n).config for n in "ab"})


def test_other_differences_are_refused_with_both_values(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", "mixtral", tokenizer=False)
    write_checkpoint(
        tmp_path / "b", "mixtral", tokenizer=False, dtype=torch.bfloat16, num_experts_per_tok=1
    )
    with pytest.raises(Refused) as caught:
        check_family({n: open_checkpoint(tmp_path / n).config for n in "ab"})
    assert "num_experts_per_tok: 2 in 'a', 1 in 'b'" in str(caught.value)
    assert "dtype: 'float32' in 'a', 'bfloat16' in 'b'" in str(caught.value)
