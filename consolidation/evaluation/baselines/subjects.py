"""The checkpoints that every baseline works on, read a layer at a time. Holds no tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.checkpoints.family import check_family, check_layers
from consolidation.release.manifest import DTYPES
from representation.formats import ExpertShape

Tensors = dict[str, torch.Tensor]
"""One layer's parameters, stacked over experts, in the module's own orientation."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """Models of one family by name, and the checkpoint that they were all fine-tuned from.

    Raises `Refused` if one of them, including the base, is of another family.
    """

    models: Mapping[str, Checkpoint]
    base: Checkpoint | None

    def __post_init__(self) -> None:
        together = {name: self.models[name] for name in self.names}
        configs = {name: checkpoint.config for name, checkpoint in together.items()}
        if self.base is not None:
            # No model's name contains a space.
            together[f"base {self.base.name}"] = self.base
            # Its experts are read in the dtype of the models'.
            configs[f"base {self.base.name}"] = {**self.base.config, "dtype": self._first.dtype}
        check_family(configs)
        check_layers(together)

    @property
    def names(self) -> tuple[str, ...]:
        """The models, sorted. Every method takes them in this order."""
        return tuple(sorted(self.models))

    @property
    def num_layers(self) -> int:
        """Layers with experts."""
        return len(self._first.experts)

    @property
    def one_model_bytes(self) -> int:
        """Bytes of one model's experts, as they are stored."""
        return self._first.expert_bytes

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which experts are stored."""
        return DTYPES[self._first.dtype]

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the experts modules in the transformers model, one per layer."""
        return tuple(source.module for source in self._first.experts)

    def num_experts(self, layer: int) -> int:
        """Experts of one model."""
        return self._first.experts[layer].num_experts

    def shape(self, layer: int) -> ExpertShape:
        """Shapes of one expert."""
        return self._first.experts[layer].shape

    def model(self, name: str, layer: int) -> Tensors:
        """One model's experts as stored, converted to float32. (E, …)"""
        return _stacked(self.models[name], layer)

    def expert(self, name: str, layer: int, index: int) -> Tensors:
        """One expert of a model as stored, converted to float32."""
        read = self.models[name].experts[layer].read(index)
        return {key: tensor.float() for key, tensor in read.items()}

    def all_models(self, layer: int) -> Tensors:
        """The experts of all models, in the order of `names`. (M, E, …) float32"""
        read = [self.model(name, layer) for name in self.names]
        return {name: torch.stack([one[name] for one in read]) for name in read[0]}

    def base_experts(self, layer: int) -> Tensors:
        """The base's experts. (E, …) float32. Only for methods that have a base."""
        assert self.base is not None
        return _stacked(self.base, layer)

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        """What comes back after storing it in the dtype of the experts. float32"""
        return tensor.to(self.dtype).float()

    @property
    def _first(self) -> Checkpoint:
        return self.models[self.names[0]]


def _stacked(checkpoint: Checkpoint, layer: int) -> Tensors:
    source = checkpoint.experts[layer]
    found: Tensors = {}
    for index in range(source.num_experts):
        for name, tensor in source.read(index).items():
            if name not in found:
                found[name] = torch.empty(source.num_experts, *tensor.shape)
            found[name][index] = tensor
    return found
