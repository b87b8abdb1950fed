"""A method: gives every model its experts, for some number of bytes. Measures nothing."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

import torch

from consolidation.checkpoints.checkpoint import BackboneSource, Checkpoint, ExpertsSource
from consolidation.errors import Refused, RunFailed
from consolidation.release import Manifest, ReleaseReader
from consolidation.release.manifest import BackboneBlob
from consolidation.release.tensors import encode_tensors, tensor_digest


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
    """A published release, as it is served."""

    def __init__(self, reader: ReleaseReader) -> None:
        self._reader = reader
        self.name = f"release {reader.id}"
        self.expert_bytes = reader.manifest.expert_bytes_after

    def experts(self, model: str, layer: int) -> Mapping[str, torch.Tensor]:
        """See `Method.experts`."""
        num_experts = len(self._reader.models[model].expert_map[layer])
        experts = [self._reader.expert(model, layer, index) for index in range(num_experts)]
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


@torch.inference_mode()
def give_experts(model: Any, experts: Sequence[ExpertsSource], method: Method, name: str) -> None:
    """Put all of a method's experts into a transformers model, in place.

    Raises `RunFailed` for one that is missing or has the wrong shape. The model then has a mix of
    experts and must not be used.
    """
    for layer, source in enumerate(experts):
        module = model.get_submodule(source.module)
        given = method.experts(name, layer)
        for parameter, _ in source.parameters:
            there = getattr(module, parameter)
            if parameter not in given or given[parameter].shape != there.shape:
                shape = tuple(given[parameter].shape) if parameter in given else "nothing"
                raise RunFailed(
                    f"{method.name}, model {name!r}: {source.module}.{parameter} is "
                    f"{tuple(there.shape)}, but the method gave {shape}"
                )
            there.copy_(given[parameter])
