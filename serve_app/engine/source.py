"""What the engine asks of a release. Not how it is stored: `consolidation.release` knows that."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch


class BlobLike(Protocol):
    """A stored file: its content's digest and its size in bytes."""

    @property
    def digest(self) -> str: ...

    @property
    def bytes(self) -> int: ...


class BackboneBlobLike(BlobLike, Protocol):
    """A stored file of a backbone: digests of its tensors by name; empty where not known.

    in_float32: names of those that are float32 where the release's dtype is another.
    """

    @property
    def tensors(self) -> Mapping[str, str]: ...

    @property
    def in_float32(self) -> Sequence[str]: ...


class PartLike(BlobLike, Protocol):
    """A stored part of experts: a slot or a residual, and the label of its format.

    matrices: those that it is for; empty: all.   on: the digest of the slot that a residual stands
    on, whose weights it replaces.   others: of a slot in several parts, those beside the one that
    experts name, by their index among the layer's slots.
    """

    @property
    def format(self) -> str: ...

    @property
    def matrices(self) -> Sequence[str]: ...

    @property
    def on(self) -> str | None: ...

    @property
    def others(self) -> Sequence[int]: ...


class LayerLike(Protocol):
    """One MoE layer: the name of its experts module, the parts of its slots, and its residuals.

    transposed: whether the module's matrices are (in, out).
    """

    @property
    def module(self) -> str: ...

    @property
    def transposed(self) -> bool: ...

    @property
    def slots(self) -> Sequence[PartLike]: ...

    @property
    def residuals(self) -> Sequence[PartLike]: ...


class ModelLike(Protocol):
    """One model: its transformers config, its backbone's files, and its experts' parts.

    expert_map: MoE layers × experts -> index of the slot in that layer, or of its first part.
    residual_map: MoE layers × experts -> indices of residuals in that layer; () where no expert
    has any.
    """

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def backbone(self) -> Sequence[BackboneBlobLike]: ...

    @property
    def expert_map(self) -> Sequence[Sequence[int]]: ...

    @property
    def residual_map(self) -> Sequence[Sequence[Sequence[int]]]: ...


def backbone_key(model: ModelLike) -> str:
    """A key that is equal for models whose backbones are the same files."""
    return "+".join(blob.digest for blob in model.backbone)


class ReleaseSource(Protocol):
    """A release that can be read, part by part and backbone by backbone.

    `dtype` is what its tensors are stored in: "float32", "bfloat16" or "float16".
    """

    @property
    def id(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def layers(self) -> Sequence[LayerLike]: ...

    @property
    def models(self) -> Mapping[str, ModelLike]: ...

    @property
    def reads_at_once(self) -> int:
        """How many threads may read it, so that its place gives what it can."""
        ...

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        """The tensors of one part of a slot as they are stored, verified."""
        ...

    def read_residual(self, layer: int, residual: int) -> dict[str, torch.Tensor]:
        """The tensors of one residual as they are stored, verified."""
        ...

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The model's tensors outside the experts, verified, by state-dict name."""
        ...
