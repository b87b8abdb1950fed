"""Bytes of the plans that a budget is spent over, one choice after another. Chooses nothing.

Spending asks for the bytes of many plans that differ from one another in few groups. A layer whose
choices are those of the last plan is not counted again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from consolidation.compare.groups import Choices
from consolidation.plan.maps import layer_bytes, layer_maps, planned_layer
from consolidation.plan.terms import Extended, LayerChoices
from representation.canonical import canonical_json


@dataclass(frozen=True, slots=True)
class _Counted:
    """One layer: its choices, and bytes of its files, of those by digest, and of rows of maps.

    slots, residuals: by model; no residuals where no expert has any.
    """

    choices: tuple[Choices, ...]
    num_bytes: int
    known: dict[str, int]
    slots: tuple[int, ...]
    residuals: tuple[int, ...]
    has_residuals: tuple[bool, ...]


class ChosenBytes:
    """Bytes of the plan of one choice for every group, in order of layers and groups."""

    def __init__(
        self, layers: Sequence[LayerChoices], models: Sequence[str], extended: Extended | None
    ) -> None:
        self._layers = layers
        self._models = models
        self._extended = extended
        ends = accumulate((len(layer.groups or ()) for layer in layers), initial=0)
        self._spans = list(pairwise(ends))
        self._ungrouped = [layer.ungrouped for layer in layers]
        self._counted: list[_Counted | None] = [None] * len(layers)

    def __call__(self, choices: Sequence[Choices]) -> int:
        counted = [
            self._layer(number, tuple(choices[start:end]))
            for number, (start, end) in enumerate(self._spans)
        ]
        known: dict[str, int] = {}
        for layer in counted:
            known |= layer.known
        total = sum(layer.num_bytes for layer in counted) + sum(known.values())
        # A map is a list: brackets around its rows, and commas between them.
        frame = 2 + len(counted) - 1
        for model in range(len(self._models)):
            total += frame + sum(layer.slots[model] for layer in counted)
            if any(layer.has_residuals[model] for layer in counted):
                total += frame + sum(layer.residuals[model] for layer in counted)
        return total

    def _layer(self, number: int, choices: tuple[Choices, ...]) -> _Counted:
        before = self._counted[number]
        if before is not None and before.choices == choices:
            return before
        layer = self._layers[number]
        slots = [slot for choice in choices for slot in choice] + self._ungrouped[number]
        made = planned_layer(number, layer, slots, self._extended)
        num_bytes, known = layer_bytes(number, made, layer, self._extended)
        rows, residual_rows = layer_maps(number, made, self._models, self._extended)
        found = self._counted[number] = _Counted(
            choices,
            num_bytes,
            known,
            tuple(_row_bytes(rows[name]) for name in self._models),
            tuple(_row_bytes(residual_rows[name]) for name in self._models),
            tuple(any(residual_rows[name]) for name in self._models),
        )
        return found


def _row_bytes(row: Sequence[object]) -> int:
    """Of one row of a map, as a manifest spells it."""
    return len(canonical_json(row))
