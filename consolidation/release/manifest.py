"""What a release's manifest says, and its exact bytes. Reads and writes no file."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION = 1
RELEASE_ID_LENGTH = 16
"""Hexadecimal characters of the manifest's SHA-256 that name a release."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
"""Names of families, models and channels: they become parts of paths and of URLs."""

Dtype = Literal["bfloat16", "float16", "float32"]
NotNegative = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Blob(_Record):
    """One file of `blobs/`: the SHA-256 of its content and its size in bytes."""

    digest: Digest
    bytes: NotNegative


class Layer(_Record):
    """One MoE layer's pool. `module` is the experts module's name in the transformers model."""

    module: str
    slots: tuple[Blob, ...]


class Source(_Record):
    """Where a model came from: the directory's own name, and a digest of all its tensors."""

    name: str
    digest: str


class Golden(_Record):
    """What a model must answer: greedy tokens, and the largest logits at each of them.

    `top[i]` are (token, logit) pairs, largest first, of the position that gave `tokens[i]`;
    computed in `dtype` from the release's own weights.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    dtype: str

    @model_validator(mode="after")
    def _logits_for_each_token(self) -> Self:
        if len(self.top) != len(self.tokens):
            raise ValueError(
                f"{len(self.tokens)} golden tokens with {len(self.top)} sets of logits"
            )
        return self


class Model(_Record):
    """What one model keeps for itself, and which slots it uses.

    `expert_map[layer][index]` is the slot of expert `index`; layers are those of the manifest.
    """

    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_files: dict[str, Blob]
    backbone: tuple[Blob, ...]
    expert_map: tuple[tuple[NotNegative, ...], ...]
    source: Source
    golden: Golden | None = None

    @field_validator("tokenizer_files")
    @classmethod
    def _stay_inside_the_directory(cls, files: dict[str, Blob]) -> dict[str, Blob]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
                raise ValueError(f"tokenizer file {name!r} would lie outside its directory")
        return files


class Quality(_Record):
    """How far a model of the release is from its original. `kl` in nats per token."""

    kl: float
    perplexity_original: float
    perplexity_release: float
    tokens: NotNegative


class Manifest(_Record):
    """One release. Holds no time and no path: the same recipe gives the same bytes."""

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
            for layer, slots in enumerate(model.expert_map):
                size = len(self.layers[layer].slots)
                if any(slot >= size for slot in slots):
                    raise ValueError(
                        f"model {name!r}, layer {layer}: "
                        f"slot {max(slots)} is outside the pool of {size}"
                    )
        return self

    def to_bytes(self) -> bytes:
        """The file's exact content: canonical JSON, keys sorted, no spaces."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def id(self) -> str:
        """The release's name: the first characters of the SHA-256 of its bytes."""
        return release_id(self.to_bytes())


def canonical_json(value: object) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8. Refuses NaN and infinities."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def release_id(manifest_bytes: bytes) -> str:
    """The name of the release whose manifest has this content."""
    return hashlib.sha256(manifest_bytes).hexdigest()[:RELEASE_ID_LENGTH]


def expert_map_bytes(expert_map: Sequence[Sequence[int]]) -> int:
    """What one model's expert map counts towards a release's expert bytes."""
    return len(canonical_json([list(slots) for slots in expert_map]))


def expert_bytes(layers: Sequence[Layer], models: dict[str, Model]) -> int:
    """Bytes of a release's experts: the distinct slot files, and the maps of all models."""
    slots = {blob.digest: blob.bytes for layer in layers for blob in layer.slots}
    return sum(slots.values()) + sum(expert_map_bytes(m.expert_map) for m in models.values())


def valid_name(name: str) -> bool:
    """Whether a family, model or channel may have this name."""
    return NAME_PATTERN.fullmatch(name) is not None
