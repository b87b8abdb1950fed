"""Reads one release: the engine and `verify` get tensors from here. Writes no release."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from consolidation.release.errors import Damaged, NotFound
from consolidation.release.manifest import Layer, Manifest, Model, Part
from consolidation.release.registry import Registry
from representation.few_ahead import read_ahead
from representation.formats import ExpertShape, dense_expert

HOST = torch.device("cpu")


class ReleaseReader:
    """A published release and its tensors. Every blob is verified as it is read.

    Raises `NotFound`, `Damaged` or `NewerSchema` when the manifest cannot be read.
    """

    def __init__(self, registry: Registry, release: str) -> None:
        self._registry = registry
        self.id = release
        self.manifest: Manifest = registry.read_manifest(release)

    @property
    def architecture(self) -> str:
        """The transformers class, e.g. `MixtralForCausalLM`."""
        return self.manifest.architecture

    @property
    def dtype(self) -> str:
        """The dtype of the experts as stored."""
        return self.manifest.dtype

    @property
    def layers(self) -> Sequence[Layer]:
        """The MoE layers, in order."""
        return self.manifest.layers

    @property
    def models(self) -> Mapping[str, Model]:
        """The models by name."""
        return self.manifest.models

    @property
    def reads_at_once(self) -> int:
        """How many threads may read it, so that its place gives what it can."""
        return self._registry.storage.reads_at_once

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        """The tensors of a slot's part as they are stored, without the expert dimension."""
        return self._registry.read_tensors(self.layers[layer].slots[slot])

    def read_residual(self, layer: int, residual: int) -> dict[str, torch.Tensor]:
        """A residual's tensors as they are stored."""
        return self._registry.read_tensors(self.layers[layer].residuals[residual])

    def expert(
        self, model: str, layer: int, index: int, device: torch.device = HOST
    ) -> dict[str, torch.Tensor]:
        """One expert of a model: the sum of its parts, as its module has it. float32"""
        pool, found = self.layers[layer], self._model(model)
        slot = pool.slot_parts(found.expert_map[layer][index])
        residuals = (pool.residuals[i] for i in found.residuals(layer, index))
        return read_expert(self._registry, (*slot, *residuals), pool.shape, device)

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        """A model's own tensors by state-dict name, each blob verified before its first tensor.

        They are in memory of this process, one blob at a time, or a few where several are read at
        once: no file can change them afterwards.
        """
        blobs = self._model(model).backbone
        sizes = [blob.bytes for blob in blobs]
        read = self._registry.read_tensors
        for tensors in read_ahead(read, blobs, sizes, self.reads_at_once):
            yield from tensors.items()

    def write_tokenizer(self, model: str, directory: Path) -> None:
        """Write what `AutoTokenizer.from_pretrained(directory)` needs, including the config."""
        found = self._model(model)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(found.config), encoding="utf-8")
        for name, blob in sorted(found.tokenizer_files.items()):
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._registry.read_bytes(blob))

    def _model(self, name: str) -> Model:
        if name not in self.models:
            raise NotFound(f"release {self.id} has no model {name!r}")
        return self.models[name]


def read_expert(
    registry: Registry, parts: Sequence[Part], shape: ExpertShape, device: torch.device = HOST
) -> dict[str, torch.Tensor]:
    """The sum of a slot and its residuals as their module has it, in float32. Raises `Damaged`.

    Parts go to the device as they are stored, and are added up there.
    A dense slot alone needs no shape, so experts of schema 1 can be read too.
    """
    read = [(part.parsed, registry.read_tensors(part)) for part in parts]
    for part, (fmt, held) in zip(parts, read, strict=True):
        own = shape.only(part.matrices)
        wanted = fmt.tensor_specs(own, torch.float32, residual=False)
        if shape.parameters and held.keys() != wanted.keys():
            raise Damaged(
                f"part {part.digest} holds {', '.join(sorted(held))}, not {', '.join(wanted)}"
            )
    if not shape.parameters:
        ((_, tensors),) = read
        shape = ExpertShape({name: tuple(t.shape) for name, t in tensors.items()}, False)
    there = [
        (fmt, {name: tensor.to(device) for name, tensor in held.items()}) for fmt, held in read
    ]
    return dense_expert(there, shape)
