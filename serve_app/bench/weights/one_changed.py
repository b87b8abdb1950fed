"""A release in which one model has other weights than in another release. Nothing is stored."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from serve_app.engine.source import LayerLike, ModelLike, ReleaseSource


class OneChanged:
    """A release, but one model's weights are those of a release of the same shapes.

    Slots that other models have too stay as they are. So do the digests that it states: it is to be
    published, not to be staged beside the first.
    """

    id = "one changed"

    def __init__(self, source: ReleaseSource, other: ReleaseSource, model: str) -> None:
        self._source, self._other, self._model = source, other, model
        self._own = [_own_slots(source, model, layer) for layer in range(len(source.layers))]

    @property
    def dtype(self) -> str:
        return self._source.dtype

    @property
    def layers(self) -> Sequence[LayerLike]:
        return self._source.layers

    @property
    def models(self) -> Mapping[str, ModelLike]:
        return self._source.models

    @property
    def reads_at_once(self) -> int:
        return self._source.reads_at_once

    def read_slot(self, layer: int, slot: int) -> dict[str, torch.Tensor]:
        source = self._other if slot in self._own[layer] else self._source
        return source.read_slot(layer, slot)

    def read_residual(self, layer: int, residual: int) -> dict[str, torch.Tensor]:
        return self._source.read_residual(layer, residual)

    def read_backbone(self, model: str) -> Iterator[tuple[str, torch.Tensor]]:
        source = self._other if model == self._model else self._source
        return source.read_backbone(model)


def _own_slots(source: ReleaseSource, model: str, layer: int) -> set[int]:
    """The slots of a layer that no other model has."""
    own = set(source.models[model].expert_map[layer])
    return own.difference(*(m.expert_map[layer] for n, m in source.models.items() if n != model))
