"""What the manifest of a release says, and its exact bytes. Reads and writes no file."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from consolidation.release.golden import Golden
from consolidation.release.quality import Quality
from representation.canonical import canonical_json
from representation.formats import DENSE, ExpertShape, Format, format_of
from representation.step_reads import DecodeStep, LayerParts, bytes_read

SCHEMA_VERSION = 3
NEW_IN_3: Any = {
    "layers": {
        "__all__": {
            "slots": {"__all__": {"matrices", "on"}},
            "residuals": {"__all__": {"matrices", "on"}},
        }
    },
    "models": {"__all__": {"backbone": {"__all__": {"tensors"}}}},
}
"""Fields that manifests before schema 3 do not have: without them, they are what they were."""
RELEASE_ID_LENGTH = 16
"""How many hexadecimal characters of the manifest's SHA-256 name a release."""

Dtype = Literal["bfloat16", "float16", "float32"]
DTYPES: dict[Dtype, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Blob(_Record):
    """One file of `blobs/`: the SHA-256 of its content and its size in bytes."""

    digest: Digest
    bytes: NotNegative


class BackboneBlob(Blob):
    """One file of a backbone: a decoder layer, or a tensor outside of them.

    tensors: digests of its tensors by name, equal where dtype, shape and values are; empty where
    that is not known, as in manifests of schema 2.
    in_float32: names of those that are float32 where the release's dtype is another.
    """

    tensors: dict[str, Digest] = {}
    in_float32: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)


class Part(Blob):
    """One part of an expert: a blob, and the label of the format that its tensors are in.

    matrices: those that it is for, with their vectors; empty: all.
    on: the digest of the dense slot that a residual stands on whose format replaces weights;
    another's are added, to whatever slot an expert has.
    others: of a slot in several parts, those beside the one that experts name, by index.
    """

    format: str = "dense"
    matrices: tuple[str, ...] = ()
    on: Digest | None = None
    others: tuple[NotNegative, ...] = Field(default=(), exclude_if=lambda parts: not parts)

    @field_validator("format")
    @classmethod
    def _is_a_format(cls, label: str) -> str:
        return str(format_of(label))

    @property
    def parsed(self) -> Format:
        """The format that the label names."""
        return format_of(self.format)


class Layer(_Record):
    """One MoE layer's pool. `module` is the experts module's name in the transformers model.

    `slots` are the parts of all slots. `parameters` are the module's, with their shapes without the
    expert dimension. If it is `transposed`, its matrices have input features first. A manifest of
    schema 1 says neither.
    """

    module: str
    parameters: dict[str, tuple[Positive, ...]] = {}
    transposed: bool = False
    slots: tuple[Part, ...]
    residuals: tuple[Part, ...] = ()

    @model_validator(mode="after")
    def _parts_have_their_place(self) -> Self:
        known = self.shape.matrices
        dense = {slot.digest for slot in self.slots if slot.parsed == DENSE and not slot.matrices}
        for residual, parts in ((False, self.slots), (True, self.residuals)):
            for index, part in enumerate(parts):
                what = f"{self.module}: {'residual' if residual else 'slot'} {index}"
                if not part.parsed.stands_as(residual=residual):
                    raise ValueError(f"{what} cannot be {part.format}")
                if part.matrices and part.parsed.replaces:
                    raise ValueError(f"{what} is {part.format} and must be for all matrices")
                if (part.on is not None) != part.parsed.replaces:
                    stands = "names no slot" if part.on is None else "names a slot"
                    raise ValueError(f"{what} is {part.format} and {stands} that it stands on")
                if part.on is not None and part.on not in dense:
                    raise ValueError(f"{what} stands on {part.on}, which is no dense slot here")
                _check_inside(f"{what}: part", part.others, 0 if residual else len(self.slots))
                unknown = [name for name in part.matrices if name not in known]
                if unknown:
                    raise ValueError(f"{what} is for {unknown[0]}, which is no matrix here")
        return self

    @property
    def num_slots(self) -> int:
        """Slots, whatever the number of their parts."""
        return len(self.slots) - len({index for slot in self.slots for index in slot.others})

    def slot_parts(self, slot: int) -> tuple[Part, ...]:
        """All parts of a slot that experts name."""
        first = self.slots[slot]
        return (first, *(self.slots[index] for index in first.others))

    @property
    def shape(self) -> ExpertShape:
        """Shapes of an expert here; without parameters if the manifest has schema 1."""
        return ExpertShape(self.parameters, self.transposed)

    def device_bytes(self, dtype: Dtype) -> int:
        """Bytes of the tensors of all distinct parts, as a device holds them."""
        found: dict[tuple[object, ...], int] = {}
        for parts, residual in ((self.slots, False), (self.residuals, True)):
            for part in parts:
                key = part.digest, part.format, part.matrices, part.on
                found[key] = self.part_bytes(part, dtype, residual=residual)
        return sum(found.values())

    def part_bytes(self, part: Part, dtype: Dtype, *, residual: bool) -> int:
        """Bytes of the tensors of one of its parts, as a device holds them."""
        shape = self.shape.only(part.matrices)
        return part.parsed.num_bytes(shape, DTYPES[dtype], residual=residual)


class Source(_Record):
    """Where a model came from: the directory's own name, and a digest of all its tensors, as read.

    quantised: how its weights were stored, where that took fewer bits than they are read in.
    adapter: a digest of the files of the adapter that was put on it.   merged: how many tensors
    outside of experts it changed, which are stored as they are with it.
    not_served: how many tensors it had of each module that is not served, such as one for images.
    """

    name: str
    digest: str
    quantised: str | None = Field(default=None, exclude_if=lambda how: how is None)
    adapter: Digest | None = Field(default=None, exclude_if=lambda digest: digest is None)
    merged: NotNegative = Field(default=0, exclude_if=lambda count: not count)
    not_served: dict[str, NotNegative] = Field(default={}, exclude_if=lambda found: not found)


class Model(_Record):
    """What one model keeps for itself, and the parts that its experts are made of.

    `expert_map[layer][index]` is the slot of expert `index`; layers are those of the manifest.
    `residual_map[layer][index]` are the residuals added to it; empty if the model has none.
    `stand_ins`: what nearly equals its own and is stored instead, by whose it is: tensors by name,
    experts as `<module>.<index>`.
    """

    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_files: dict[str, Blob]
    backbone: tuple[BackboneBlob, ...]
    expert_map: tuple[tuple[NotNegative, ...], ...]
    residual_map: tuple[tuple[tuple[NotNegative, ...], ...], ...] = ()
    source: Source
    golden: Golden | None = None
    stand_ins: dict[str, str] = Field(default={}, exclude_if=lambda names: not names)

    def residuals(self, layer: int, index: int) -> tuple[int, ...]:
        """Which of a layer's residuals are added to the slot of one expert."""
        return self.residual_map[layer][index] if self.residual_map else ()

    @field_validator("tokenizer_files")
    @classmethod
    def _stay_inside_the_directory(cls, files: dict[str, Blob]) -> dict[str, Blob]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
                raise ValueError(f"tokenizer file {name!r} would lie outside its directory")
        return files


class Manifest(_Record):
    """One release. Contains no time and no path: the same recipe gives the same bytes."""

    schema_version: int = SCHEMA_VERSION
    family: str
    architecture: str
    dtype: Dtype
    layers: tuple[Layer, ...]
    models: dict[str, Model]
    expert_bytes_before: NotNegative
    expert_bytes_after: NotNegative
    expert_bytes_one_model: NotNegative
    quality: dict[str, Quality]
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _maps_stay_in_the_pool(self) -> Self:
        for name, model in self.models.items():
            if len(model.expert_map) != len(self.layers):
                raise ValueError(
                    f"model {name!r} maps {len(model.expert_map)} layers of {len(self.layers)}"
                )
            if model.residual_map and [len(row) for row in model.residual_map] != [
                len(row) for row in model.expert_map
            ]:
                raise ValueError(f"model {name!r} maps residuals of experts that it does not have")
            for layer, row in enumerate(model.expert_map):
                pool = self.layers[layer]
                where = f"model {name!r}, layer {layer}"
                added = [i for index in range(len(row)) for i in model.residuals(layer, index)]
                _check_inside(f"{where}: slot", row, len(pool.slots))
                _check_inside(f"{where}: residual", added, len(pool.residuals))
                for slot in sorted(set(row)):
                    _check_slot(f"{where}: slot {slot}", pool, slot)
                for index, slot in enumerate(row):
                    residuals = [pool.residuals[i] for i in model.residuals(layer, index)]
                    _check_stands(f"{where}, expert {index}", pool.slots[slot], residuals)
        return self

    @model_validator(mode="after")
    def _shapes_are_known(self) -> Self:
        if self.schema_version >= 2:
            for layer in self.layers:
                if not layer.parameters:
                    raise ValueError(f"{layer.module}: no shapes of its parameters")
        return self

    @property
    def expert_device_bytes(self) -> int | None:
        """Bytes that the experts take on a device; None with schema 1, which has no shapes."""
        if not all(layer.parameters for layer in self.layers):
            return None
        return sum(layer.device_bytes(self.dtype) for layer in self.layers)

    @property
    def step_bytes(self) -> int | None:
        """Bytes of experts that `decode_step` reads; None with schema 1, which has no shapes."""
        if not all(layer.parameters for layer in self.layers):
            return None
        step = self.decode_step
        read = [number for number, layer in enumerate(self.layers) if step.reads(layer.module)]
        return bytes_read(map(self._layer_parts, read), step)

    @property
    def decode_step(self) -> DecodeStep:
        """The step for which bytes are stated."""
        return DecodeStep.of(next(iter(self.models.values())).config)

    def _layer_parts(self, number: int) -> LayerParts:
        layer = self.layers[number]
        return LayerParts(
            [layer.part_bytes(part, self.dtype, residual=False) for part in layer.slots],
            [layer.part_bytes(part, self.dtype, residual=True) for part in layer.residuals],
            [
                [
                    ((slot, *layer.slots[slot].others), model.residuals(number, e))
                    for e, slot in enumerate(model.expert_map[number])
                ]
                for model in self.models.values()
            ],
        )

    def to_bytes(self) -> bytes:
        """The file's exact content: canonical JSON, keys sorted, no spaces."""
        exclude = NEW_IN_3 if self.schema_version < 3 else None
        return canonical_json(self.model_dump(mode="json", exclude=exclude))

    @property
    def id(self) -> str:
        """The release's name: the first characters of the SHA-256 of its bytes."""
        return release_id(self.to_bytes())


def release_id(manifest_bytes: bytes) -> str:
    """The name of the release whose manifest has this content."""
    return hashlib.sha256(manifest_bytes).hexdigest()[:RELEASE_ID_LENGTH]


def expert_map_bytes(expert_map: Sequence[Sequence[int]]) -> int:
    """Bytes that one model's expert map adds to a release's expert bytes."""
    return len(canonical_json([list(slots) for slots in expert_map]))


def residual_map_bytes(residual_map: Sequence[Sequence[Sequence[int]]]) -> int:
    """Bytes that one model's residual map adds to a release's expert bytes."""
    rows = [[list(residuals) for residuals in row] for row in residual_map]
    return len(canonical_json(rows)) if rows else 0


def expert_bytes(layers: Sequence[Layer], models: Mapping[str, Model]) -> int:
    """Bytes of a release's experts: distinct files of slots and residuals, maps of all models."""
    parts = [part for layer in layers for part in (*layer.slots, *layer.residuals)]
    files = {part.digest: part.bytes for part in parts}
    maps = (
        expert_map_bytes(model.expert_map) + residual_map_bytes(model.residual_map)
        for model in models.values()
    )
    return sum(files.values()) + sum(maps)


def _check_inside(where: str, indices: Sequence[int], size: int) -> None:
    if indices and max(indices) >= size:
        raise ValueError(f"{where} {max(indices)} is outside the pool of {size}")


def _check_slot(what: str, layer: Layer, slot: int) -> None:
    """A slot that experts name has each matrix in one of its parts."""
    wanted = layer.shape.matrices
    held = [name for part in layer.slot_parts(slot) for name in part.matrices or wanted]
    if sorted(held) != sorted(wanted):
        raise ValueError(f"{what} has parts for {', '.join(held)}, not {', '.join(wanted)}")


def _check_stands(where: str, slot: Part, residuals: Sequence[Part]) -> None:
    for residual in residuals:
        if residual.on is not None and (residual.on != slot.digest or len(residuals) > 1):
            raise ValueError(
                f"{where}: a residual in {residual.format} stands alone, and on slot {residual.on}"
            )
