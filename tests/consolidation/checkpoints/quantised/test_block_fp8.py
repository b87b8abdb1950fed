import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import FineGrainedFP8Config

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import assert_as_loaded, everything, rewrite

PLAIN = ("embed_tokens", "lm_head", "norm", "gate.weight", "bias")
"""Names of what DeepSeek and Qwen leave as it is."""


def fp8(
    block: tuple[int, int], scale: torch.dtype = torch.float32
) -> Callable[[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """Stores a matrix with the largest absolute value of each block as 448 times its scale."""

    def stored(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if any(part in name for part in PLAIN):
            return None
        codes = torch.empty_like(tensor, dtype=torch.float8_e4m3fn)
        rows = []
        for top in range(0, len(tensor), block[0]):
            scales = []
            for left in range(0, tensor.shape[1], block[1]):
                inside = slice(top, top + block[0]), slice(left, left + block[1])
                one = (tensor[inside].abs().max().float() / 448).to(scale)
                codes[inside] = (tensor[inside].float() / one.float()).to(codes.dtype)
                scales.append(one)
            rows.append(torch.stack(scales))
        return {name: codes, f"{name}_scale_inv": torch.stack(rows)}

    return stored


def by_hand(codes: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """The value of each code by its own position."""
    rows = torch.arange(codes.shape[0]) // block[0]
    columns = torch.arange(codes.shape[1]) // block[1]
    return codes.float() * scales.float()[rows][:, columns]


@pytest.mark.parametrize("architecture", ["qwen3_moe", "deepseek_v3"])
def test_fp8_is_read_as_transformers_dequantises_it(tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("accelerate", reason="transformers needs it to read fp8; extra: dev")
    write_checkpoint(tmp_path, architecture, dtype=torch.bfloat16, tokenizer=False)
    settings = {"quant_method": "fp8", "weight_block_size": [8, 8], "activation_scheme": "dynamic"}
    rewrite(tmp_path, settings, fp8((8, 8)))
    checkpoint = open_checkpoint(tmp_path)
    config = FineGrainedFP8Config(dequantize=True, weight_block_size=(8, 8))
    model: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=config
    )
    assert_as_loaded(checkpoint, model)
    assert checkpoint.quantised == "fp8 in blocks of 8 × 8"


@pytest.mark.parametrize("scale", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
@pytest.mark.parametrize("block", [(7, 9), (128, 128), (24, 5)])
def test_the_last_blocks_may_be_smaller(
    tmp_path: Path, block: tuple[int, int], scale: torch.dtype
) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    settings = {"quant_method": "fp8", "weight_block_size": list(block)}
    rewrite(tmp_path, settings, fp8(block, scale))
    stored = load_file(tmp_path / "model.safetensors")
    found = everything(open_checkpoint(tmp_path))
    name = "model.layers.1.self_attn.k_proj.weight"
    expected = by_hand(stored[name], stored[f"{name}_scale_inv"], block)
    assert torch.equal(found[name], expected.bfloat16())
    down = "model.layers.2.block_sparse_moe.experts.3.w2.weight"
    expected = by_hand(stored[down], stored[f"{down}_scale_inv"], block)
    assert torch.equal(found["model.layers.2.mlp.experts.down_proj"][3], expected.bfloat16())


def test_experts_that_are_stored_together_are_read_one_at_a_time(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    fused = everything(open_checkpoint(tmp_path))
    save_file(fused, tmp_path / "model.safetensors", metadata={"format": "pt"})
    make = fp8((8, 16))

    def stored(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if ".experts." not in name:
            return None
        each = [make(name, one) or {} for one in tensor]
        return {key: torch.stack([one[key] for one in each]) for key in each[0]}

    rewrite(tmp_path, {"quant_method": "fp8", "weight_block_size": [8, 16]}, stored)
    parts = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    expected = by_hand(parts[name][2], parts[f"{name}_scale_inv"][2], (8, 16)).bfloat16()
    assert torch.equal(open_checkpoint(tmp_path).experts[0].read(2)["gate_up_proj"], expected)


def test_scales_of_whole_matrices_and_of_inputs_may_be_there(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)

    def stored(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if not name.endswith("q_proj.weight"):
            return None
        scale = torch.tensor(0.5)
        activation = name.replace("weight", "activation_scale")
        codes = (tensor / scale).to(torch.float8_e4m3fn)
        return {name: codes, f"{name}_scale_inv": scale, activation: scale.clone()}

    rewrite(tmp_path, {"quant_method": "fp8", "weight_block_size": None}, stored)
    name = "model.layers.0.self_attn.q_proj.weight"
    codes = load_file(tmp_path / "model.safetensors")[name]
    assert torch.equal(everything(open_checkpoint(tmp_path))[name], codes.bfloat16() / 2)


KEY = "model.layers.1.self_attn.k_proj.weight"
SCALE = f"{KEY}_scale_inv"


@pytest.mark.parametrize(
    ("edit", "block", "names"),
    [
        (lambda t: t.pop(SCALE), [8, 8], [KEY, "F8_E4M3"]),
        (lambda t: t.pop(KEY), [8, 8], [SCALE, "without", KEY]),
        (lambda t: t.update({SCALE: t[SCALE][1:].clone()}), [8, 8], [SCALE, "[1, 4]", "[2, 4]"]),
        (lambda t: t.update({SCALE: t[SCALE].int()}), [8, 8], [SCALE, "I32"]),
        (lambda t: t.update({KEY: t[KEY].view(torch.int8)}), [8, 8], [KEY, "I8"]),
        (lambda t: None, [8, 16], ["_scale_inv", "8 × 16"]),
        (lambda t: None, [8, 0], ["[8, 0]"]),
        (lambda t: None, None, ["_scale_inv", "without blocks"]),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path,
    edit: Callable[[dict[str, torch.Tensor]], object],
    block: list[int] | None,
    names: list[str],
) -> None:
    write_checkpoint(tmp_path, "mixtral", dtype=torch.bfloat16, tokenizer=False)
    rewrite(tmp_path, {"quant_method": "fp8", "weight_block_size": [8, 8]}, fp8((8, 8)))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    config = tmp_path / "config.json"
    fields = json.loads(config.read_text())
    fields["quantization_config"]["weight_block_size"] = block
    config.write_text(json.dumps(fields))
    with pytest.raises(Refused) as caught:
        open_checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names), str(caught.value)
