import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import assert_as_loaded, rewrite

SETTINGS = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
BLOCKS = "model.layers.1.mlp.experts.down_proj_blocks"
SCALES = "model.layers.1.mlp.experts.down_proj_scales"


def as_published(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Random codes in place of the experts' matrices. tensor: (E, I, O)"""
    if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return None
    num_experts, num_in, num_out = tensor.shape
    generator = torch.Generator().manual_seed(len(name))
    groups = (num_experts, num_out, num_in // 32)

    def numbers(least: int, most: int, *shape: int) -> torch.Tensor:
        return torch.randint(least, most, shape, dtype=torch.uint8, generator=generator)

    return {
        f"{name}_blocks": numbers(0, 256, *groups, 16),
        f"{name}_scales": numbers(117, 126, *groups),
    }


def write(directory: Path) -> Path:
    write_checkpoint(
        directory,
        "gpt_oss",
        dtype=torch.bfloat16,
        tokenizer=False,
        hidden_size=64,
        intermediate_size=32,
    )
    rewrite(directory, SETTINGS, as_published)
    return directory


def change(directory: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_mxfp4_is_read_as_transformers_dequantises_it(tmp_path: Path) -> None:
    checkpoint = pickle.loads(pickle.dumps(open_checkpoint(write(tmp_path))))
    model: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
    )
    assert_as_loaded(checkpoint, model)
    assert checkpoint.quantised == "mxfp4"
    assert checkpoint.dtype == "bfloat16"
    assert "quantization_config" not in checkpoint.config


def test_without_a_dtype_in_the_config_quantised_weights_are_bfloat16(tmp_path: Path) -> None:
    config = write(tmp_path) / "config.json"
    fields = json.loads(config.read_text())
    del fields["dtype"]
    config.write_text(json.dumps(fields))
    assert open_checkpoint(tmp_path).dtype == "bfloat16"


def test_one_expert_is_read_without_the_others(tmp_path: Path) -> None:
    layer = open_checkpoint(write(tmp_path)).experts[1]
    for name, conversion in layer.parameters:
        assert torch.equal(layer.read(2)[name], conversion.read()[conversion.target][2])


def test_a_scale_of_all_ones_is_not_a_number_that_is_served(tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, lambda t: t[SCALES].fill_(255))
    assert not open_checkpoint(tmp_path).experts[1].read(0)["down_proj"].isfinite().all()


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (lambda t: t.pop(SCALES), [BLOCKS, "has no", SCALES]),
        (lambda t: t.pop(BLOCKS), [SCALES, "nothing in the model"]),
        (lambda t: t.update({SCALES: t[SCALES][:, 1:].clone()}), [SCALES, "[4, 64, 1]"]),
        (lambda t: t.update({SCALES: t[SCALES].bfloat16()}), [SCALES, "BF16", "U8"]),
        (lambda t: t.update({BLOCKS: t[BLOCKS][..., :8].clone()}), [BLOCKS, "16"]),
        (
            lambda t: t.update({BLOCKS.removesuffix("_blocks"): torch.ones(4, 32, 64)}),
            ["down_proj is stored twice"],
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path, edit: Callable[[dict[str, torch.Tensor]], object], names: list[str]
) -> None:
    write(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(Refused) as caught:
        open_checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names), str(caught.value)
