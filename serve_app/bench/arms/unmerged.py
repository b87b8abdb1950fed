"""Models of a release as if nothing had been merged: each with its own whole experts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from representation.architecture.anatomy import study
from representation.architecture.config import config_of
from representation.formats import DENSE, dense_expert, format_of
from serve_app.engine.experts.shelves import LayerShape
from serve_app.engine.model.facts import layer_shapes
from serve_app.engine.source import ModelLike, PartLike, ReleaseSource


@dataclass(frozen=True, slots=True)
class WholeExpert:
    """A dense slot for one model's expert alone. slot, residuals: the parts whose sum it is."""

    digest: str
    bytes: int
    slot: tuple[int, ...]
    residuals: tuple[int, ...]
    format: str = str(DENSE)
    matrices: tuple[str, ...] = ()
    on: str | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WholeLayer:
    module: str
    transposed: bool
    slots: tuple[WholeExpert, ...]
    residuals: tuple[PartLike, ...] = ()


@dataclass(frozen=True, slots=True)
class WholeBackbone:
    """A backbone's file. It tells no digests of tensors, so none is held once for several."""

    digest: str
    bytes: int
    tensors: Mapping[str, str]
    in_float32: Sequence[str]


@dataclass(frozen=True, slots=True)
class WholeModel:
    config: Mapping[str, Any]
    backbone: Sequence[WholeBackbone]
    expert_map: tuple[tuple[int, ...], ...]
    residual_map: tuple[tuple[tuple[int, ...], ...], ...] = ()


class Unmerged:
    """Some models of a release, with their experts' parts added up: a `ReleaseSource`.

    The models answer as in the release, but take the memory that they would take without it.
    """

    def __init__(self, source: ReleaseSource, models: Sequence[str]) -> None:
        """models: of the release, in the order of their slots."""
        self.id = f"{source.id} unmerged"
        self.dtype = source.dtype
        self._source = source
        self._torch_dtype = getattr(torch, source.dtype)
        config = config_of(source.models[models[0]].config)
        self._shapes = layer_shapes(study(config, self._torch_dtype))
        self.layers = tuple(self._layer(number, models) for number in range(len(self._shapes)))
        self.models = {
            name: self._model(position, source.models[name]) for position, name in enumerate(models)
        }

    def _layer(self, number: int, models: Sequence[str]) -> WholeLayer:
        layer, shape = self._source.layers[number], self._shapes[number]
        slots = [
            self._expert(name, number, index, shape)
            for name in models
            for index in range(shape.num_experts)
        ]
        return WholeLayer(layer.module, layer.transposed, tuple(slots))

    def _expert(self, name: str, number: int, index: int, shape: LayerShape) -> WholeExpert:
        layer, model = self._source.layers[number], self._source.models[name]
        first = model.expert_map[number][index]
        slot = (first, *layer.slots[first].others)
        residuals = tuple(model.residual_map[number][index]) if model.residual_map else ()
        parts = [*(layer.slots[one] for one in slot), *(layer.residuals[one] for one in residuals)]
        return WholeExpert(
            digest=f"{name} {index} " + "+".join(part.digest for part in parts),
            bytes=DENSE.num_bytes(shape.expert, self._torch_dtype, residual=False),
            slot=slot,
            residuals=residuals,
        )

    def _model(self, position: int, model: ModelLike) -> WholeModel:
        experts = [
            tuple(range(position * shape.num_experts, (position + 1) * shape.num_experts))
            for shape in self._shapes
        ]
        backbone = [
            WholeBackbone(blob.digest, blob.bytes, {}, blob.in_float32) for blob in model.backbone
        ]
        return WholeModel(model.config, backbone, tuple(experts))

    @property
    def reads_at_once(self) -> int:
        return self._source.reads_at_once

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        """One expert by parameter, as its module has it, in the release's dtype."""
        whole, held = self.layers[layer].slots[slot], self._source.layers[layer]
        parts = [
            (format_of(held.slots[one].format), self._source.read_slot(layer, one))
            for one in whole.slot
        ]
        parts += [
            (format_of(held.residuals[one].format), self._source.read_residual(layer, one))
            for one in whole.residuals
        ]
        if len(parts) == 1 and parts[0][0] == DENSE:
            return parts[0][1]
        expert = dense_expert(parts, self._shapes[layer].expert)
        return {name: tensor.to(self._torch_dtype) for name, tensor in expert.items()}

    def read_residual(self, layer: int, residual: int) -> dict[str, torch.Tensor]:
        raise LookupError(f"layer {layer} has no residual {residual}: nothing is merged")

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        return self._source.read_backbone(model)
