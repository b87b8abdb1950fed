"""Releases made in memory from models: nothing on disk, nothing merged unless asked for."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class FakeBlob:
    digest: str
    bytes: int


@dataclass(frozen=True)
class FakeLayer:
    module: str
    slots: list[FakeBlob]


@dataclass(frozen=True)
class FakeModel:
    config: dict[str, Any]
    backbone: list[FakeBlob]
    expert_map: list[list[int]]


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of names and contents."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().float().numpy().tobytes())
    return found.hexdigest()


class MemorySource:
    """A release of transformers models as they are; experts that are equal share a slot."""

    def __init__(self, release: str, models: Mapping[str, Any], dtype: str = "float32") -> None:
        self.id = release
        self.dtype = dtype
        self.layers: list[FakeLayer] = []
        self.models: dict[str, FakeModel] = {}
        self._slots: list[list[dict[str, torch.Tensor]]] = []
        self._backbones: dict[str, dict[str, torch.Tensor]] = {}
        self.num_slot_reads = 0
        self.num_backbone_reads = 0
        maps: dict[str, list[list[int]]] = {name: [] for name in models}
        for path in expert_paths(next(iter(models.values()))):
            self._add_layer(path, models, maps)
        for name, model in models.items():
            tensors = backbone_tensors(model)
            self._backbones[name] = tensors
            blob = FakeBlob(digest_of(tensors), sum(t.nbytes for t in tensors.values()))
            self.models[name] = FakeModel(model.config.to_dict(), [blob], maps[name])

    def _add_layer(
        self, path: str, models: Mapping[str, Any], maps: dict[str, list[list[int]]]
    ) -> None:
        slots: dict[str, int] = {}
        kept: list[dict[str, torch.Tensor]] = []
        for name, model in models.items():
            experts = model.get_submodule(path)
            row = []
            for index in range(experts.num_experts):
                tensors = {
                    key: parameter.detach()[index].clone()
                    for key, parameter in experts.named_parameters(recurse=False)
                }
                digest = digest_of(tensors)
                if digest not in slots:
                    slots[digest] = len(kept)
                    kept.append(tensors)
                row.append(slots[digest])
            maps[name].append(row)
        self.layers.append(FakeLayer(path, [FakeBlob(digest, 1) for digest in slots]))
        self._slots.append(kept)

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        self.num_slot_reads += 1
        return self._slots[layer][slot]

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        self.num_backbone_reads += 1
        yield from self._backbones[model].items()


def expert_paths(model: Any) -> list[str]:
    """Qualified names of a model's experts modules."""
    return [path for path, module in model.named_modules() if hasattr(module, "is_transposed")]


def backbone_tensors(model: Any) -> dict[str, torch.Tensor]:
    """A model's state dict outside its experts, tied tensors once."""
    inside = tuple(f"{path}." for path in expert_paths(model))
    tied = model.config.tie_word_embeddings
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(inside) and not (tied and name == "lm_head.weight")
    }
