"""Rewrites tiny checkpoints as quantised ones: other tensors in the files, and a config that says
so. Knows no format; decodes nothing.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import Checkpoint
from representation.architecture.skeleton import meta_model


def rewrite(
    directory: Path,
    settings: dict[str, Any],
    stored: Callable[[str, torch.Tensor], dict[str, torch.Tensor] | None],
) -> None:
    """Give the directory's config these settings, and store each tensor for which `stored` says so
    as what it says.
    """
    path = directory / "model.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path).items():
        parts = stored(name, tensor)
        tensors |= {name: tensor} if parts is None else parts
    ready = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    save_file(ready, path, metadata={"format": "pt"})
    config = directory / "config.json"
    fields = json.loads(config.read_text()) | {"quantization_config": settings}
    config.write_text(json.dumps(fields))


def everything(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors of an opened checkpoint by their names in the model, experts stacked."""
    found: dict[str, torch.Tensor] = {}
    for part in checkpoint.backbone:
        found |= part.read()
    for layer in checkpoint.experts:
        experts = [layer.read(index) for index in range(layer.num_experts)]
        for name in experts[0]:
            found[f"{layer.module}.{name}"] = torch.stack([expert[name] for expert in experts])
    return found


def assert_as_loaded(checkpoint: Checkpoint, model: Any) -> None:
    """The checkpoint's tensors are those of a model that transformers loaded, to the bit."""
    served = meta_model(model.config, torch.float32).state_dict()
    expected = {name: tensor for name, tensor in model.state_dict().items() if name in served}
    for tied in model.all_tied_weights_keys:
        del expected[tied]
    found = everything(checkpoint)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        # transformers keeps a few buffers in float32 whatever is asked.
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name
