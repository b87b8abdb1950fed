import json
from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.checkpoints.tensor_file import StoredTensor
from consolidation.errors import Refused
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import everything, rewrite


def blocks(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
    if not name.endswith("experts.down_proj"):
        return None
    codes = torch.zeros(4, 32, 1, 16, dtype=torch.uint8)
    return {f"{name}_blocks": codes, f"{name}_scales": codes[..., 0]}


def keep_plain(name: str, tensor: torch.Tensor) -> None:
    return None


@pytest.mark.parametrize("settings", [{}, None, "fp8", {"quant_method": "awq"}, {"bits": 4}])
def test_plain_weights_are_read_whatever_the_config_says(
    tmp_path: Path, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    expected = everything(open_checkpoint(tmp_path))
    rewrite(tmp_path, settings, keep_plain)
    checkpoint = open_checkpoint(tmp_path)
    found = everything(checkpoint)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert checkpoint.quantised is None
    assert "quantization_config" not in checkpoint.config
    assert ("its weights are plain" in caplog.text) == bool(settings)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"quant_method": "gptq", "bits": 4}, ["gptq", "dequantize_model", "-bf16"]),
        ({"quant_method": "awq"}, ["awq", "save it in bfloat16 with what quantised it"]),
        ({"quant_method": "bitsandbytes"}, ["bitsandbytes", "dequantize().save_pretrained"]),
        ({"quant_method": "hqq"}, ["hqq", "bfloat16"]),
        ("strange", ["strange"]),
        ({"bits": 4}, ["unnamed"]),
    ],
)
def test_a_format_that_is_not_read_is_refused_with_what_converts_it(
    tmp_path: Path, settings: Any, names: list[str]
) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)

    def packed(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
        codes = torch.zeros(4, 32, dtype=torch.int32)
        return {name.replace("weight", "qweight"): codes} if ".experts." in name else None

    rewrite(tmp_path, settings, packed)
    with pytest.raises(Refused) as caught:
        open_checkpoint(tmp_path)
    assert all(name in str(caught.value) for name in names), str(caught.value)


def test_a_dtype_in_which_weights_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "gpt_oss", tokenizer=False, intermediate_size=32)

    rewrite(tmp_path, {"quant_method": "mxfp4"}, blocks)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float64"}))
    with pytest.raises(Refused, match="'float64'"):
        open_checkpoint(tmp_path)


def test_all_parts_of_a_quantised_weight_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, "gpt_oss", tokenizer=False, intermediate_size=32)
    rewrite(tmp_path, {"quant_method": "mxfp4"}, blocks)
    asked: list[str] = []
    monkeypatch.setattr(StoredTensor, "read_ahead", lambda self: asked.append(self.key))
    layer = open_checkpoint(tmp_path).experts[0]
    for _, conversion in layer.parameters:
        for _, tensor in conversion.sources:
            tensor.read_ahead()
    down = f"{layer.module}.down_proj"
    assert {f"{down}_blocks", f"{down}_scales", f"{down}_bias"} <= set(asked)
