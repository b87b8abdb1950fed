"""Tensors that are known and not served: they are counted, and need not be there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import ModelFiles, open_checkpoint
from consolidation.checkpoints.family import open_family
from consolidation.errors import Refused
from consolidation.release import Registry
from tests.support.adapters import write_listed
from tests.support.checkpoints import TOWERS, write_checkpoint

Tensors = dict[str, torch.Tensor]
LAYER = (
    "eh_proj.weight",
    "enorm.weight",
    "mlp.experts.0.up_proj.weight",
    "shared_head.norm.weight",
)


def edit(directory: Path, change: Callable[[Tensors], Tensors]) -> Path:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return directory


def adding(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(2, 2) for name in names}


@pytest.mark.parametrize("architecture", TOWERS)
def test_other_towers_are_counted_and_may_be_missing(architecture: str, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "whole", architecture, tokenizer=False)
    found = open_checkpoint(whole)
    names = load_file(whole / "model.safetensors").keys()
    text = [name for name in names if "language_model" in name or name == "lm_head.weight"]
    assert sum(found.not_served.values()) == len(names) - len(text) > 0
    assert all(not module.startswith("model.language_model") for module in found.not_served)
    read = [name for part in found.backbone for name in part.read()]
    assert all("language_model" in name or name == "lm_head.weight" for name in read)
    part = write_checkpoint(tmp_path / "part", architecture, tokenizer=False)
    edit(part, lambda tensors: {name: tensors[name] for name in text})
    assert open_checkpoint(part).not_served == {}


def test_a_tensor_of_a_tower_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "qwen3_vl_moe", tokenizer=False)
    edit(path, adding("model.visual.strange.weight"))
    with pytest.raises(Refused, match=r"is made of model\.visual\.strange\.weight"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("architecture", "names", "module"),
    [
        ("deepseek_v3", [f"model.layers.3.{name}" for name in LAYER], "model.layers.3"),
        ("glm4_moe", [f"model.layers.3.{name}" for name in LAYER], "model.layers.3"),
        ("qwen3_moe", ["mtp.fc.weight", "mtp.layers.0.mlp.gate.weight"], "mtp"),
        ("mixtral", ["model.mtp.layers.0.norm.weight"], "model.mtp"),
        ("mixtral", ["model.mtp_layers.0.norm.weight"], "model.mtp_layers"),
        ("qwen3_vl_moe", ["model.language_model.mtp.norm.weight"], "model.language_model.mtp"),
    ],
)
def test_layers_that_predict_further_tokens_are_of_one_family_with_models_without(
    architecture: str, names: list[str], module: str, tmp_path: Path
) -> None:
    for name in ("kept", "dropped", "too"):
        write_checkpoint(tmp_path / name, architecture, len(name), tokenizer=False)
    edit(tmp_path / "kept", adding(*names))
    edit(tmp_path / "too", adding(*names))
    notes: list[str] = []
    models = {name: ModelFiles(tmp_path / name) for name in ("kept", "dropped", "too")}
    family = open_family(
        Registry("memory://none", "fam"),
        models,
        base=None,
        extend=None,
        remove=(),
        opened=lambda _: None,
        note=notes.append,
    )
    assert family.checkpoints["kept"].not_served[module] == len(names)
    assert module not in family.checkpoints["dropped"].not_served
    (line,) = [note for note in notes if f"{module} (" in note]
    assert line.endswith("of 'kept', 'too'")


def test_factors_of_a_tower_are_counted_and_not_put_on_anything(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "qwen3_vl_moe", tokenizer=False)
    pattern = r"model\.visual\.blocks\.0\.attn\.proj\.weight|.*layers\.0\.self_attn\.q_proj\.weight"
    adapter = write_listed(path, tmp_path / "lora", pattern)
    plain, found = open_checkpoint(path), open_checkpoint(path, adapter)
    assert found.num_merged == 1
    assert found.not_served["model.visual"] == plain.not_served["model.visual"] + 2


def test_a_layer_of_the_decoder_that_is_too_many_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "deepseek_v3", tokenizer=False)
    edit(path, adding("model.layers.3.input_layernorm.weight"))
    with pytest.raises(Refused, match=r"is made of model\.layers\.3\.input_layernorm"):
        open_checkpoint(path)


def test_experts_that_lie_the_other_way_round_are_turned(tmp_path: Path) -> None:
    """As in the published checkpoints of Qwen3-VL-MoE."""
    path = write_checkpoint(tmp_path / "m", "qwen3_vl_moe", tokenizer=False)
    before = [open_checkpoint(path).experts[0].read(index) for index in range(8)]

    def turned(tensors: Tensors) -> Tensors:
        return {
            name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
            for name, tensor in tensors.items()
        }

    after = open_checkpoint(edit(path, turned)).experts[0]
    for index, experts in enumerate(before):
        for name, tensor in after.read(index).items():
            assert torch.equal(tensor, experts[name])
