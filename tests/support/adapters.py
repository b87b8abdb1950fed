"""LoRA adapters of generated checkpoints, as files; and what peft makes of them."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@contextmanager
def _peft_as_it_is() -> Iterator[None]:
    """It asks transformers for what is deprecated there, and warns where a config has no name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_adapter(base: Path, directory: Path, *, seed: int = 0, **fields: Any) -> Path:
    """An adapter that peft makes for a base, with random factors. fields: of its `LoraConfig`."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with _peft_as_it_is():
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    with _peft_as_it_is():
        adapted.save_pretrained(str(directory))
    return directory


def write_listed(
    base: Path,
    directory: Path,
    pattern: str,
    *,
    seed: int = 0,
    ranks: Mapping[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
    size: float = 0.3,
    **fields: Any,
) -> Path:
    """An adapter of the matrices as a base's file has them: experts one by one.

    pattern: of names of tensors.   ranks: by the end of a layer's name, where not 4.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in sorted(load_file(base / "model.safetensors").items()):
        if not re.fullmatch(pattern, name):
            continue
        path = f"base_model.model.{name.removesuffix('.weight')}"
        rank = next((r for end, r in (ranks or {}).items() if path.endswith(end)), 4)
        sizes = {"A": (rank, tensor.shape[1]), "B": (tensor.shape[0], rank)}
        for side, shape in sizes.items():
            found = size * torch.randn(shape, generator=generator)
            tensors[f"{path}.lora_{side}.weight"] = found.to(dtype)
    targets = sorted({name.split(".")[-3] for name in tensors})
    return write_files(directory, tensors, {"r": 4, "target_modules": targets, **fields})


def write_files(
    directory: Path, tensors: Mapping[str, torch.Tensor], fields: Mapping[str, Any]
) -> Path:
    """An adapter's two files."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / WEIGHTS, metadata={"format": "pt"})
    usual = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "lora_alpha": 8}
    (directory / CONFIG).write_text(json.dumps({**usual, **fields}))
    return directory


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The tensors of the model that peft makes of both."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with _peft_as_it_is():
        found = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return dict(found.state_dict())
