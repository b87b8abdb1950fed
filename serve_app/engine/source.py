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


class LayerLike(Protocol):
    """One MoE layer: the name of its experts module, and its slots."""

    @property
    def module(self) -> str: ...

    @property
    def slots(self) -> Sequence[BlobLike]: ...


class ModelLike(Protocol):
    """One model: its transformers config, its backbone's files, and its expert map.

    expert_map: MoE layers × experts -> index of the slot in that layer.
    """

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def backbone(self) -> Sequence[BlobLike]: ...

    @property
    def expert_map(self) -> Sequence[Sequence[int]]: ...


class ReleaseSource(Protocol):
    """A release that can be read, slot by slot and backbone by backbone.

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

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        """The tensors of one slot, verified."""
        ...

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The model's tensors outside the experts, verified, by state-dict name."""
        ...
