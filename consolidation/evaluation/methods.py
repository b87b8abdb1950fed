"""A method: gives every model its experts, for some number of bytes. Measures nothing."""

import hashlib
from collections.abc import Collection, Mapping
from itertools import zip_longest
from typing import Protocol

import torch

from consolidation.arithmetic.on_device import CPU
from consolidation.checkpoints.checkpoint import BackboneSource, Checkpoint
from consolidation.errors import Refused, RunFailed
from consolidation.release import Manifest, ReleaseReader
from consolidation.release.manifest import BackboneBlob
from consolidation.release.tensors import encode_tensors, tensor_digest
from consolidation.walk.weight_sources import CheckpointWeights


class Method(Protocol):
    """Several models' experts, made smaller. Holds at most one layer in memory."""

    @property
    def name(self) -> str:
        """For tables: unique among the methods of one run."""
        ...

    @property
    def expert_bytes(self) -> int:
        """Bytes that must be stored to give all models their experts."""
        ...

    def experts(self, model: str, layer: int) -> Mapping[str, torch.Tensor]:
        """One layer's parameters, stacked (E, …), float32, in the module's own orientation."""
        ...


class ReleaseMethod:
    """A published release, as it is served. device: that adds the parts of experts up."""

    def __init__(self, reader: ReleaseReader, device: torch.device = CPU) -> None:
        self._reader = reader
        self._device = device
        self.name = f"release {reader.id}"
        self.expert_bytes = reader.manifest.expert_bytes_after

    def experts(self, model: str, layer: int) -> Mapping[str, torch.Tensor]:
        """See `Method.experts`."""
        num_experts = len(self._reader.models[model].expert_map[layer])
        experts = [
            self._reader.expert(model, layer, index, self._device) for index in range(num_experts)
        ]
        return {name: torch.stack([one[name] for one in experts]) for name in experts[0]}

    def predicted_kl(self, model: str) -> float | None:
        """What the release's plan expected of a model."""
        quality = self._reader.manifest.quality.get(model)
        return None if quality is None else quality.predicted_kl


def check_originals(manifest: Manifest, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise `Refused` unless each checkpoint has the backbone of its model, bit for bit.

    Leaves out tensors that are stored as another model's, as the manifest says. Does not compare
    experts: how far those of a release are from the original is measured.
    """
    for name, checkpoint in checkpoints.items():
        model = manifest.models[name]
        for part, blob in zip_longest(checkpoint.backbone, model.backbone):
            if part is None or blob is None or not _is_of(part, blob, model.stand_ins):
                raise Refused(
                    f"model {name!r} of the release was not made from {checkpoint.directory}: "
                    f"{part.name if part else 'a part of its backbone'} differs"
                )


def check_tensors(manifest: Manifest, checkpoints: Mapping[str, Checkpoint]) -> None:
    """The same as far as headers tell it: by the names of tensors."""
    for name, checkpoint in checkpoints.items():
        parts = [tensor for part in checkpoint.backbone for tensor, _ in part.tensors]
        blobs = [tensor for blob in manifest.models[name].backbone for tensor in blob.tensors]
        differing = sorted({*parts} ^ {*blobs}) if blobs else []
        if differing:
            raise Refused(
                f"model {name!r} of the release was not made from {checkpoint.name}: "
                f"{differing[0]} is in only one of them"
            )


def _is_of(part: BackboneSource, blob: BackboneBlob, stand_ins: Collection[str]) -> bool:
    """Whether a blob holds what a part of a checkpoint holds, apart from what stands in for it."""
    tensors = part.read()
    if hashlib.sha256(encode_tensors(tensors)).hexdigest() == blob.digest:
        return True
    own = {name: tensor for name, tensor in tensors.items() if name not in stand_ins}
    return (
        len(own) < len(tensors)
        and tensors.keys() == blob.tensors.keys()
        and all(blob.tensors[name] == tensor_digest(tensor) for name, tensor in own.items())
    )


class MethodWeights(CheckpointWeights):
    """A checkpoint's, with a method's experts in place of its own."""

    def __init__(self, checkpoint: Checkpoint, method: Method, name: str) -> None:
        super().__init__(checkpoint)
        self._sources = checkpoint.experts
        self._method = method
        self._name = name
        self._given: tuple[int, Mapping[str, torch.Tensor]] = (-1, {})

    def expert(self, layer: int, index: int) -> dict[str, torch.Tensor]:
        """See `Weights.expert`. Asks the method for a whole layer, and keeps the last.

        Raises `RunFailed` if a parameter is missing or has the wrong shape.
        """
        if self._given[0] != layer:
            self._given = (-1, {})
            self._given = (layer, self._layer(layer))
        return {name: tensor[index] for name, tensor in self._given[1].items()}

    def _layer(self, layer: int) -> dict[str, torch.Tensor]:
        source = self._sources[layer]
        given = self._method.experts(self._name, layer)
        for parameter in source.shape.parameters:
            shape = (source.num_experts, *source.shape.parameters[parameter])
            if parameter not in given or given[parameter].shape != shape:
                found = tuple(given[parameter].shape) if parameter in given else "nothing"
                raise RunFailed(
                    f"{self._method.name}, model {self._name!r}: {source.module}.{parameter} is "
                    f"{shape}, but the method gave {found}"
                )
        return {parameter: given[parameter] for parameter in source.shape.parameters}
