"""Layouts that people's checkpoints have: read as transformers reads them, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from tests.support.checkpoints import write_checkpoint

SINGLE = "model.safetensors"
ROUTER = "model.layers.0.block_sparse_moe.gate.weight"
Edit = Callable[[Path], object]


def tensors(edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Edit:
    def change(directory: Path) -> None:
        found = edit(load_file(directory / SINGLE))
        save_file(found, directory / SINGLE)  # without metadata, as some tools write them

    return change


def config(*without: str, **fields: Any) -> Edit:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        content = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({k: v for k, v in content.items() if k not in without}))

    return change


def linked(directory: Path) -> None:
    (directory / "blob").mkdir()
    (directory / SINGLE).rename(directory / "blob" / "0123")
    (directory / SINGLE).symlink_to(Path("blob") / "0123")


def with_stale_index(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone"}}')


def prefixed(prefix: str) -> Edit:
    return tensors(lambda found: {prefix + name: tensor for name, tensor in found.items()})


READ: dict[str, tuple[dict[str, Any], Edit]] = {
    "only the base model, with a tied head": (
        {"tie_word_embeddings": True},
        tensors(
            lambda t: {k.removeprefix("model."): v for k, v in t.items() if "lm_head" not in k}
        ),
    ),
    "frequencies of an old transformers": (
        {},
        tensors(lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    ),
    "routers in float32": (
        {"dtype": torch.bfloat16},
        tensors(lambda t: t | {ROUTER: t[ROUTER].float()}),
    ),
    "a link": ({}, linked),
    "an index that is not needed": ({}, with_stale_index),
    "the dtype by its old name": (
        {"dtype": torch.bfloat16},
        config("dtype", torch_dtype="bfloat16"),
    ),
    "no dtype": ({"dtype": torch.bfloat16}, config("dtype")),
    "rope as it was written before": (
        {},
        config("rope_parameters", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}),
    ),
    "more outputs than logits": (
        {},
        config(return_dict=False, output_router_logits=True, output_hidden_states=True),
    ),
    "an empty quantization": ({}, config(quantization_config={})),
    "a left-over quantization": (
        {"dtype": torch.bfloat16},
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ),
    "settings of generation in the config": ({}, config(max_length=20, do_sample=True)),
}
REFUSED: dict[str, tuple[Edit, str]] = {
    "a value head": (tensors(lambda t: t | {"v_head.weight": torch.ones(1)}), "made of v_head"),
    "torch.compile": (prefixed("_orig_mod."), "begin with '_orig_mod.'; save the model inside"),
    "PEFT": (prefixed("base_model.model."), "begin with 'base_model.model.'; save the model"),
    "no head": (
        tensors(lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}),
        r"lacks lm_head\.weight",
    ),
    "a config with NaN": (config(rms_norm_eps=float("nan")), r"config\.json .* NaN is a value"),
    "an empty generation config": (
        lambda directory: (directory / "generation_config.json").write_text(""),
        r"generation_config\.json is not JSON",
    ),
    "a window of 0": (config(sliding_window=0), "neither causal nor a causal window"),
    "more experts than there are": (config(num_local_experts=5), r"experts\.4\.\S+ is missing"),
    "fewer layers than there are": (config(num_hidden_layers=1), r"made of model\.layers\.1\."),
    "a wider vocabulary": (config(vocab_size=321), r"\[320, 32\] instead of \[321, 32\]"),
}


def state_of(directory: Path, **fields: Any) -> dict[str, torch.Tensor]:
    model: Any = AutoModelForCausalLM.from_pretrained(directory, **fields)
    tied = cast("dict[str, str]", model.all_tied_weights_keys)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}


@pytest.mark.parametrize("layout", READ)
def test_a_layout_is_read_as_transformers_reads_it(tmp_path: Path, layout: str) -> None:
    fields, edit = READ[layout]
    write_checkpoint(tmp_path, "mixtral", tokenizer=False, num_hidden_layers=2, **fields)
    edit(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    found = {name: tensor for part in checkpoint.backbone for name, tensor in part.read().items()}
    for layer in checkpoint.experts:
        experts = [layer.read(index) for index in range(layer.num_experts)]
        found |= {f"{layer.module}.{n}": torch.stack([e[n] for e in experts]) for n in experts[0]}
    config("quantization_config")(tmp_path)  # transformers needs a library even if it is empty
    expected = state_of(tmp_path, dtype=torch.float32)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].float(), tensor) for name, tensor in expected.items())
    assert "quantization_config" not in checkpoint.config


@pytest.mark.parametrize("layout", REFUSED)
def test_a_layout_that_does_not_fit_is_refused_by_name(tmp_path: Path, layout: str) -> None:
    edit, words = REFUSED[layout]
    write_checkpoint(tmp_path, "mixtral", tokenizer=False, num_hidden_layers=2)
    edit(tmp_path)
    with pytest.raises(Refused, match=words):
        open_checkpoint(tmp_path)
