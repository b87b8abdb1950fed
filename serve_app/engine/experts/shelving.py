"""Which shelf each part of a release's experts belongs on. Touches no tensor."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from representation.formats import FORMATS, Format, format_of
from serve_app.engine.source import LayerLike, ModelLike, PartLike
from serve_app.errors import LoadFailed

NO_PART = -1
"""In the map of a shelf: the expert has no part there."""


@dataclass(frozen=True, slots=True, order=True)
class ShelfKey:
    """Slots of one format, or residuals of one format. Slots come first in order."""

    residual: bool
    format: Format


ShelfRows = Mapping[ShelfKey, int]
"""Rows of each shelf of a layer."""


def shelf_of(part: PartLike, *, residual: bool) -> ShelfKey:
    """Raises: LoadFailed for a format that parts of its kind cannot have."""
    noun = "residual" if residual else "slot"
    try:
        fmt = _parse(part.format)
    except ValueError as error:
        raise LoadFailed(f"{noun} {part.digest}: {error}") from error
    if not fmt.stands_as(residual=residual):
        allowed = [kind for kind, one in FORMATS.items() if one.stands_as(residual=residual)]
        raise LoadFailed(
            f"{noun} {part.digest}: its format is {part.format}; a {noun}'s is one of "
            f"{', '.join(sorted(allowed))}"
        )
    return ShelfKey(residual, fmt)


@functools.lru_cache(maxsize=256)
def _parse(label: str) -> Format:
    """There are thousands of parts, and a few formats."""
    return format_of(label)


def parts_by_shelf(layer: LayerLike) -> dict[ShelfKey, dict[str, int]]:
    """digest -> index of the (first) slot or residual that has it, for each shelf, in order.

    Raises: LoadFailed.
    """
    found: dict[ShelfKey, dict[str, int]] = {}
    for residual, parts in ((False, layer.slots), (True, layer.residuals)):
        for index, part in enumerate(parts):
            digests = found.setdefault(shelf_of(part, residual=residual), {})
            digests.setdefault(part.digest, index)
    return dict(sorted(found.items()))


def shelf_rows(layer: LayerLike) -> dict[ShelfKey, int]:
    """Rows that each shelf of a layer must have to hold a release and nothing else.

    Raises: LoadFailed.
    """
    return {key: len(digests) for key, digests in parts_by_shelf(layer).items()}


def parts_of_expert(
    layer: LayerLike, model: ModelLike, position: int, expert: int
) -> Iterator[tuple[ShelfKey, PartLike]]:
    """The parts whose sum is a model's expert. position: of the layer among the MoE layers."""
    slot = layer.slots[model.expert_map[position][expert]]
    yield shelf_of(slot, residual=False), slot
    if model.residual_map:
        for index in model.residual_map[position][expert]:
            residual = layer.residuals[index]
            yield shelf_of(residual, residual=True), residual
