"""Methods for tests: other models' experts, given as they are. Strict about what is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from consolidation.checkpoints.checkpoint import Checkpoint


@dataclass
class Given:
    """Gives a model the experts of a transformers model; remembers what it was asked for."""

    name: str
    models: Mapping[str, Any]
    expert_bytes: int = 1000
    asked: list[tuple[str, int]] = field(default_factory=list)

    def experts(self, model: str, layer: int) -> dict[str, torch.Tensor]:
        self.asked.append((model, layer))
        module = self.models[model].model.layers[layer].mlp.experts
        return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


@dataclass(frozen=True)
class FromCheckpoint:
    """Gives every model the experts of one checkpoint."""

    name: str
    checkpoint: Checkpoint

    @property
    def expert_bytes(self) -> int:
        return self.checkpoint.expert_bytes

    def experts(self, model: str, layer: int) -> dict[str, torch.Tensor]:
        source = self.checkpoint.experts[layer]
        read = [source.read(index) for index in range(source.num_experts)]
        return {name: torch.stack([one[name].float() for one in read]) for name in read[0]}
