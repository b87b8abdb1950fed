"""Which shelf each part of a release's experts belongs on. Touches no tensor."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from representation.formats import DENSE, FORMATS, Format, format_of
from serve_app.engine.source import LayerLike, ModelLike, PartLike
from serve_app.errors import BadRelease

NO_PART = -1
"""In the map of a shelf: the expert has no part there."""


@dataclass(frozen=True, slots=True, order=True)
class ShelfKey:
    """Parts of slots, or residuals, of one format for the same matrices (empty: for all).

    Those of slots come first in order.
    """

    residual: bool
    format: Format
    matrices: tuple[str, ...] = ()

    def holds(self, matrix: str) -> bool:
        """Whether parts here concern a matrix."""
        return not self.matrices or matrix in self.matrices


DENSE_SLOTS = ShelfKey(residual=False, format=DENSE)
"""The shelf on which replacing residuals stand."""


ShelfRows = Mapping[ShelfKey, int]
"""Rows of each shelf of a layer."""


def shelf_of(part: PartLike, *, residual: bool) -> ShelfKey:
    """Raises: BadRelease for a format that parts of this kind cannot have."""
    noun = "residual" if residual else "slot"
    try:
        fmt = _parse(part.format)
    except ValueError as error:
        raise BadRelease(f"{noun} {part.digest}: {error}") from error
    if not fmt.stands_as(residual=residual):
        allowed = [kind for kind, one in FORMATS.items() if one.stands_as(residual=residual)]
        raise BadRelease(
            f"{noun} {part.digest}: its format is {part.format}; a {noun}'s is one of "
            f"{', '.join(sorted(allowed))}"
        )
    if part.matrices and fmt.replaces:
        raise BadRelease(f"{noun} {part.digest}: in format {part.format} it is for all matrices")
    return ShelfKey(residual, fmt, tuple(part.matrices))


@functools.lru_cache(maxsize=256)
def _parse(label: str) -> Format:
    """Cached, because there are thousands of parts and only a few formats."""
    return format_of(label)


def part_name(part: PartLike) -> str:
    """The name of a shelf's row: a part's digest, and that of the slot it stands on, if any."""
    return part.digest if part.on is None else f"{part.digest} on {part.on}"


def parts_by_shelf(layer: LayerLike) -> dict[ShelfKey, dict[str, int]]:
    """Name of a part -> its (first) index among those of slots or residuals, by shelf, in order.

    Raises: BadRelease.
    """
    found: dict[ShelfKey, dict[str, int]] = {}
    for residual, parts in ((False, layer.slots), (True, layer.residuals)):
        for index, part in enumerate(parts):
            names = found.setdefault(shelf_of(part, residual=residual), {})
            names.setdefault(part_name(part), index)
    return dict(sorted(found.items()))


def shelf_rows(layer: LayerLike) -> dict[ShelfKey, int]:
    """Rows that each shelf of a layer needs for one release and nothing else.

    Raises: BadRelease.
    """
    return {key: len(names) for key, names in parts_by_shelf(layer).items()}


def num_slots(rows: ShelfRows) -> int:
    """Slots of a layer; of those in several parts, as many as have a part for one matrix."""
    slots = [(key, count) for key, count in rows.items() if not key.residual]
    names = {name for key, _ in slots for name in key.matrices}
    apart = (sum(count for key, count in slots if name in key.matrices) for name in names)
    return sum(count for key, count in slots if not key.matrices) + max(apart, default=0)


def parts_of_expert(
    layer: LayerLike, model: ModelLike, position: int, expert: int
) -> Iterator[tuple[ShelfKey, PartLike]]:
    """The parts of a model's expert. position: of the layer among the MoE layers.

    Raises: BadRelease for a residual that replaces weights of another slot than the expert's, or
    is not the only one.
    """
    slot = layer.slots[model.expert_map[position][expert]]
    for part in (slot, *(layer.slots[index] for index in slot.others)):
        yield shelf_of(part, residual=False), part
    residuals = model.residual_map[position][expert] if model.residual_map else ()
    for index in residuals:
        residual = layer.residuals[index]
        key = shelf_of(residual, residual=True)
        if key.format.replaces and (residual.on != slot.digest or len(residuals) > 1):
            raise BadRelease(
                f"residual {residual.digest}: its format is {residual.format}, so it stands alone, "
                f"and on slot {residual.on}"
            )
        yield key, residual


@dataclass(frozen=True, slots=True)
class ShelfMap:
    """By expert of a model, the row of its part on one shelf, or `NO_PART`.

    bases: the rows of the dense slots that those parts stand on, where they replace weights.
    """

    parts: list[int]
    bases: list[int]


def maps_of(
    layer: LayerLike,
    model: ModelLike,
    position: int,
    row_of: Mapping[ShelfKey, Callable[[str], int]],
) -> dict[ShelfKey, ShelfMap]:
    """Of each shelf that a model has parts on. row_of: by shelf, the row of a part of a name.

    An expert whose weights are partly replaced has its part there, and none on the dense shelf.
    """
    num_experts = len(model.expert_map[position])
    found: dict[ShelfKey, ShelfMap] = {}
    for expert in range(num_experts):
        rows = {
            key: row_of[key](part_name(part))
            for key, part in parts_of_expert(layer, model, position, expert)
        }
        replaces = any(key.format.replaces for key in rows)
        base = rows.pop(DENSE_SLOTS) if replaces else NO_PART
        for key, row in rows.items():
            nothing = ShelfMap([NO_PART] * num_experts, [NO_PART] * num_experts)
            of_shelf = found.setdefault(key, nothing)
            of_shelf.parts[expert], of_shelf.bases[expert] = row, base
    return found
