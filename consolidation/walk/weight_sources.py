"""Where the tensors of a streamed model come from, one part at a time. Computes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from consolidation.arithmetic.on_device import CPU
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.checkpoints.tensor_file import StoredTensor
from consolidation.release import Blob, Part, Registry, ReleaseReader, read_expert
from consolidation.release.manifest import BackboneBlob
from representation.formats import ExpertShape


class Weights(Protocol):
    """The tensors of one model, read when they are asked for.

    Layers of experts are numbered in the model's order, without layers that have none.
    """

    @property
    def config(self) -> Mapping[str, Any]:
        """The fields of the model's transformers config."""
        ...

    def backbone(self, part: str) -> dict[str, torch.Tensor]:
        """Tensors by state-dict name: of the decoder layer at a path, or the one of that name."""
        ...

    def expert(self, layer: int, index: int) -> dict[str, torch.Tensor]:
        """One expert's tensors by parameter name, without the expert dimension. On any device."""
        ...

    def read_ahead(self, part: str, layer: int | None) -> None:
        """A decoder layer and its experts are wanted next. Returns at once, and holds nothing."""
        ...


class CheckpointWeights:
    """Those of a checkpoint, as stored; experts of an adapter as it means them, not rounded."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config: Mapping[str, Any] = checkpoint.config
        self._parts = {source.name: source for source in checkpoint.backbone}
        self._experts = checkpoint.experts

    def backbone(self, part: str) -> dict[str, torch.Tensor]:
        """See `Weights.backbone`."""
        return self._parts[part].read()

    def expert(self, layer: int, index: int) -> dict[str, torch.Tensor]:
        """See `Weights.expert`."""
        return self._experts[layer].read_wide(index)

    def read_ahead(self, part: str, layer: int | None) -> None:
        """See `Weights.read_ahead`: the system reads into its page cache."""
        conversions = [conversion for _, conversion in self._parts[part].tensors]
        if layer is not None:
            conversions += [conversion for _, conversion in self._experts[layer].parameters]
        for conversion in conversions:
            for _, stored in conversion.sources:
                if isinstance(stored, StoredTensor):
                    stored.read_ahead()


@dataclass(frozen=True)
class ReleasedWeights:
    """Those of a model as blobs, published or not; each is verified as it is read.

    `experts[layer][index]` are the parts of an expert, those of its slot first; `shapes` are by
    layer. device: that adds parts up.
    """

    registry: Registry
    config: Mapping[str, Any]
    blobs: Sequence[Blob]
    experts: Sequence[Sequence[Sequence[Part]]]
    shapes: Sequence[ExpertShape]
    device: torch.device = CPU
    _names: dict[str, Blob] = field(default_factory=dict)

    def names(self) -> Mapping[str, Blob]:
        """The blob of each tensor of the backbone. Reads blobs whose tensors no manifest names."""
        if not self._names:
            for blob in self.blobs:
                known = blob.tensors if isinstance(blob, BackboneBlob) else {}
                names = known or self.registry.read_tensors(blob)
                self._names.update(dict.fromkeys(names, blob))
        return self._names

    def backbone(self, part: str) -> dict[str, torch.Tensor]:
        """See `Weights.backbone`. Raises `Damaged`."""
        inside = f"{part}."
        blobs = {
            blob.digest: blob
            for name, blob in self.names().items()
            if name == part or name.startswith(inside)
        }
        found: dict[str, torch.Tensor] = {}
        for blob in blobs.values():
            found |= self.registry.read_tensors(blob)
        return found

    def expert(self, layer: int, index: int) -> dict[str, torch.Tensor]:
        """See `Weights.expert`. float32. Raises `Damaged`."""
        parts = self.experts[layer][index]
        return read_expert(self.registry, parts, self.shapes[layer], self.device)

    def read_ahead(self, part: str, layer: int | None) -> None:
        """See `Weights.read_ahead`: a registry need not be a file system."""


def released(
    registry: Registry, reader: ReleaseReader, name: str, device: torch.device = CPU
) -> ReleasedWeights:
    """The weights of one model of a published release."""
    model = reader.models[name]
    experts = [
        [
            (*layer.slot_parts(slot), *(layer.residuals[i] for i in model.residuals(number, index)))
            for index, slot in enumerate(model.expert_map[number])
        ]
        for number, layer in enumerate(reader.layers)
    ]
    shapes = [layer.shape for layer in reader.layers]
    return ReleasedWeights(registry, model.config, model.backbone, experts, shapes, device)
