"""Families whose structure is known: models made of one base's experts in ways that are planted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.support.checkpoints import tiny_model

NUM_EXPERTS = 6
NEURONS, HIDDEN = 160, 96
SIZES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"moe_intermediate_size": NEURONS, "num_experts": NUM_EXPERTS},
    "olmoe": {"intermediate_size": NEURONS, "num_experts": NUM_EXPERTS},
    "gpt_oss": {
        "intermediate_size": NEURONS,
        "num_local_experts": NUM_EXPERTS,
        "layer_types": ["full_attention"],
    },
}
"""Matrices large enough for a rank to be low, in a single layer. In float32: rounding to fewer bits
would leave a difference of full rank, small as it is."""


@dataclass(frozen=True)
class Same:
    """The base's expert of an index; its neurons in another order where `seed` is given."""

    index: int
    seed: int | None = None


@dataclass(frozen=True)
class Tuned:
    """The base's expert of an index and a difference of this rank."""

    index: int
    rank: int
    seed: int


@dataclass(frozen=True)
class Unrelated:
    """An expert of its own."""

    seed: int


Planted = Same | Tuned | Unrelated


def plant(
    root: Path, architecture: str, models: Mapping[str, tuple[Planted, ...]]
) -> dict[str, Path]:
    """Write the checkpoint of the base, under the name `base`, and those of the models."""
    fields = {"hidden_size": HIDDEN, "num_hidden_layers": 1, **SIZES[architecture]}
    base = tiny_model(architecture, 0, **fields)
    paths = {"base": root / "base"}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in _experts(base).named_parameters():
            if name.endswith("_bias"):  # They start out as nothing.
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    base.save_pretrained(paths["base"])
    whole = {name: p.detach().clone() for name, p in _experts(base).named_parameters()}
    for name, planted in models.items():
        with torch.no_grad():
            for index, wanted in enumerate(planted):
                for parameter, tensor in _planted(whole, wanted, _experts(base)).items():
                    _experts(base).get_parameter(parameter)[index] = tensor
        paths[name] = root / name
        base.save_pretrained(paths[name])
    return paths


def _experts(model: Any) -> Any:
    return model.model.layers[0].mlp.experts


def _planted(whole: Mapping[str, torch.Tensor], wanted: Planted, module: Any) -> Any:
    """One expert's parameters, as the module has them."""
    if isinstance(wanted, Unrelated):
        generator = torch.Generator().manual_seed(wanted.seed)
        return {
            name: torch.randn(t.shape[1:], generator=generator) * t.float().std()
            for name, t in whole.items()
        }
    found = {name: tensor[wanted.index] for name, tensor in whole.items()}
    if isinstance(wanted, Tuned):
        generator = torch.Generator().manual_seed(wanted.seed)
        for name, tensor in found.items():
            if tensor.dim() == 2:
                left = torch.randn(tensor.shape[0], wanted.rank, generator=generator)
                right = torch.randn(wanted.rank, tensor.shape[1], generator=generator)
                size = 0.3 * tensor.float().std() / wanted.rank**0.5
                found[name] = tensor.float() + left @ right * size
    elif wanted.seed is not None:
        generator = torch.Generator().manual_seed(wanted.seed)
        found = _reordered(found, torch.randperm(NEURONS, generator=generator), module)
    return found


def _reordered(expert: Mapping[str, torch.Tensor], order: torch.Tensor, module: Any) -> Any:
    """Written down once more, by architecture: GPT-OSS has gates and ups in turn."""
    if module.is_transposed:
        pairs = torch.stack([2 * order, 2 * order + 1], dim=1).flatten()
        return {
            "gate_up_proj": expert["gate_up_proj"][:, pairs],
            "gate_up_proj_bias": expert["gate_up_proj_bias"][pairs],
            "down_proj": expert["down_proj"][order],
            "down_proj_bias": expert["down_proj_bias"],
        }
    gate, up = expert["gate_up_proj"].chunk(2)
    return {
        "gate_up_proj": torch.cat([gate[order], up[order]]),
        "down_proj": expert["down_proj"][:, order],
    }
