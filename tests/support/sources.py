"""Releases made in memory from models: nothing on disk, nothing merged unless asked for."""

import copy
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from representation.architecture.config import config_of
from representation.architecture.skeleton import meta_model
from representation.encoder_decoder.sparse_blocks import rewrite_sparse_blocks
from representation.formats import DENSE, ExpertShape, Format

if TYPE_CHECKING:  # the engine runs without the other half
    from consolidation.release import Golden

Part = tuple[Format, dict[str, torch.Tensor]]
"""A format, and the tensors of a blob in it."""


@dataclass(frozen=True)
class FakeBlob:
    digest: str
    bytes: int
    tensors: dict[str, str] = field(default_factory=dict)
    in_float32: tuple[str, ...] = ()


@dataclass(frozen=True)
class FakePart:
    digest: str
    bytes: int
    format: str
    matrices: tuple[str, ...] = ()
    on: str | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class FakeLayer:
    module: str
    transposed: bool
    slots: list[FakePart] = field(default_factory=list)
    residuals: list[FakePart] = field(default_factory=list)


@dataclass(frozen=True)
class FakeModel:
    config: dict[str, Any]
    backbone: list[FakeBlob]
    expert_map: list[list[int]] = field(default_factory=list)
    residual_map: list[list[tuple[int, ...]]] = field(default_factory=list)


@dataclass(frozen=True)
class KnownModel(FakeModel):
    """A model with what a replica knows of it besides."""

    generation_config: Mapping[str, Any] = field(default_factory=dict)
    golden: "Golden | None" = None


def as_replicas_know(source: Any, goldens: "Mapping[str, Golden | None]") -> Any:
    """The same release, with golden prompts of its models."""
    for name, model in source.models.items():
        made = {field: getattr(model, field) for field in FakeModel.__dataclass_fields__}
        source.models[name] = KnownModel(**made, golden=goldens.get(name))
    return source


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def digest_of(tensors: Mapping[str, torch.Tensor], label: str = "") -> str:
    """A digest of names and contents, and of a label."""
    found = hashlib.sha256(label.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().float().numpy().tobytes())
    return found.hexdigest()


class MemorySource:
    """A release of transformers models as they are; experts that are equal share a slot.

    Another way of holding them is another `parts_of`.
    """

    reads_at_once = 1

    def __init__(self, release: str, models: Mapping[str, Any], dtype: str = "float32") -> None:
        self.id = release
        self.dtype = dtype
        self.layers: list[FakeLayer] = []
        self.models: dict[str, FakeModel] = {}
        self._slots: list[list[dict[str, torch.Tensor]]] = []
        self._residuals: list[list[dict[str, torch.Tensor]]] = []
        self._backbones: dict[str, dict[str, torch.Tensor]] = {}
        self.num_slot_reads = 0
        self.num_residual_reads = 0
        self.num_backbone_reads = 0
        models = {name: as_served(model) for name, model in models.items()}
        for name, model in models.items():
            tensors = backbone_tensors(model)
            self._backbones[name] = tensors
            size = sum(tensor.nbytes for tensor in tensors.values())
            digests = {name: digest_of({"": tensor}) for name, tensor in tensors.items()}
            wide = [n for n, t in tensors.items() if t.dtype == torch.float32 != dtype_of(dtype)]
            blob = FakeBlob(digest_of(tensors), size, digests, tuple(wide))
            self.models[name] = FakeModel(model.config.to_dict(), [blob])
        for path in expert_paths(next(iter(models.values()))):
            self._add_layer(path, {n: m.get_submodule(path) for n, m in models.items()})

    def parts_of(
        self, experts: Mapping[str, Any], model: str, layer: int, index: int
    ) -> list[Part]:
        """The parts of an expert, those of its slot first.

        experts: each model's experts module of the layer
        """
        return [(DENSE, expert_tensors(experts[model], index))]

    def _add_layer(self, path: str, experts: Mapping[str, Any]) -> None:
        first = next(iter(experts.values()))
        layer = FakeLayer(path, first.is_transposed)
        slots: list[dict[str, torch.Tensor]] = []
        residuals: list[dict[str, torch.Tensor]] = []
        for name, model in self.models.items():
            row, residual_row = [], []
            for index in range(first.num_experts):
                parts = self.parts_of(experts, name, len(self.layers), index)
                shape = expert_shape(experts[name])
                slot, *rest = [parts.pop(0) for _ in range(_num_slot_parts(parts, shape))]
                others = tuple(_keep(layer.slots, slots, one, shape) for one in rest)
                row.append(_keep(layer.slots, slots, slot, shape, others=others))
                on = layer.slots[row[-1]].digest
                residual_row.append(
                    tuple(_keep(layer.residuals, residuals, one, shape, on) for one in parts)
                )
            model.expert_map.append(row)
            model.residual_map.append(residual_row)
        self.layers.append(layer)
        self._slots.append(slots)
        self._residuals.append(residuals)

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        self.num_slot_reads += 1
        return self._slots[layer][slot]

    def read_residual(self, layer: int, residual: int) -> dict[str, torch.Tensor]:
        self.num_residual_reads += 1
        return self._residuals[layer][residual]

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        self.num_backbone_reads += 1
        yield from self._backbones[model].items()


def without_digests(source: MemorySource) -> MemorySource:
    """The source, as one whose manifest tells nothing of backbones' tensors: none is shared."""
    for model in source.models.values():
        model.backbone[:] = [FakeBlob(blob.digest, blob.bytes) for blob in model.backbone]
    return source


def _keep(
    parts: list[FakePart],
    tensors: list[dict[str, torch.Tensor]],
    part: Part,
    shape: ExpertShape,
    on: str | None = None,
    others: tuple[int, ...] = (),
) -> int:
    """The index of a part among those that are kept; it is added where none is equal."""
    fmt, found = part
    on = on if fmt.replaces else None
    digest = digest_of(found, str(fmt))
    for index, kept in enumerate(parts):
        if (kept.digest, kept.on, kept.others) == (digest, on, others):
            return index
    size = sum(tensor.nbytes for tensor in found.values())
    held = _matrices(part, shape)
    matrices = () if held == shape.matrices else held
    parts.append(FakePart(digest, size, str(fmt), matrices, on, others))
    tensors.append(found)
    return len(parts) - 1


def _matrices(part: Part, shape: ExpertShape) -> tuple[str, ...]:
    """Those that a part is for."""
    return tuple(m for m in shape.matrices if any(n.split(".")[0] == m for n in part[1]))


def _num_slot_parts(parts: Sequence[Part], shape: ExpertShape) -> int:
    """How many of an expert's parts its slot has: the first that hold all matrices."""
    held = itertools.accumulate(len(_matrices(part, shape)) for part in parts)
    return 1 + list(held).index(len(shape.matrices))


def expert_tensors(experts: Any, index: int) -> dict[str, torch.Tensor]:
    """The parameters of one expert of a module."""
    return {
        name: parameter.detach()[index].clone()
        for name, parameter in experts.named_parameters(recurse=False)
    }


def expert_shape(experts: Any) -> ExpertShape:
    """The shape of the experts of a module."""
    tensors = expert_tensors(experts, 0)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return ExpertShape(shapes, experts.is_transposed)


def as_served(model: Any) -> Any:
    """The model with its experts as they are served: through the experts interface."""
    if not model.config.is_encoder_decoder:
        return model
    served = copy.deepcopy(model)
    rewrite_sparse_blocks(served)
    return served


def expert_paths(model: Any) -> list[str]:
    """Qualified names of a model's experts modules."""
    return [path for path, module in model.named_modules() if hasattr(module, "is_transposed")]


def backbone_tensors(model: Any) -> dict[str, torch.Tensor]:
    """A model's state dict outside its experts and other towers, tied tensors once."""
    inside = tuple(f"{path}." for path in expert_paths(model))
    tied = model.all_tied_weights_keys
    served = _served_names(json.dumps(model.config.to_dict(), sort_keys=True, default=str))
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in served and not name.startswith(inside) and name not in tied
    }


@cache
def _served_names(config: str) -> frozenset[str]:
    """What a model of this config, in JSON, has where it is served."""
    return frozenset(meta_model(config_of(json.loads(config)), torch.float32).state_dict())
