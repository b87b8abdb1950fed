"""What a format's file tells the comparison: what its parts cost, and how one is made.

Each file `<kind>_cost.py` beside this one has a value `COST`. Here is what it must be able to say;
nothing here knows a format.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

import torch

from consolidation.arithmetic.factors import Factors
from consolidation.arithmetic.metric import Metric
from consolidation.arithmetic.sketch import Sketch
from consolidation.arithmetic.weights import Weights
from consolidation.compare.noise import Noise, Spread, Unit, powers_of
from representation.formats import ExpertShape, Format, Tensors

Formats = tuple[Format, ...]
"""Formats of a matrix's residuals; none when the slot is all it has."""
FEEDBACK = 1.7
"""How much more rounding with feedback moves weights than the error it leaves would say."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An expert seen from the content of a slot.

    is_same: whether they are equal to the bit.   is_stored: whether unit and content are what a
    checkpoint or a dense slot holds, to the bit, and every neuron in its own place.   spread,
    costs, sketches: of the unit's weights less the content's, by matrix; costs are of biases too,
    and of the whole, where nothing makes up for it. Both are 0 where nothing may be lost, and there
    are sketches only of matrices that differ. factors: by matrix, what the whole difference is the
    product of, where an adapter says it.
    """

    unit: Unit
    content: Weights
    is_same: bool
    is_stored: bool
    spread: Spread
    costs: Mapping[str, float]
    sketches: Mapping[str, Sketch]
    factors: Mapping[str, Factors] = field(default_factory=dict)

    @classmethod
    def between(
        cls,
        unit: Unit,
        content: Weights,
        *,
        is_stored: bool,
        factors: Mapping[str, Factors],
    ) -> "Difference":
        """Weigh what a unit and a content differ by."""
        is_same = unit.weights is content or unit.weights.equals(content)
        nothing = dict.fromkeys(unit.sketchers, 0.0)
        if unit.locked or is_same:
            return cls(unit, content, is_same, is_stored, nothing, nothing, {}, factors)
        weights = unit.weights.minus(content)
        changed = [name for name, matrix in weights.matrices.items() if bool(matrix.any())]
        sketches = {
            name: unit.sketchers[name].of(weights.matrices[name], factors.get(name))
            for name in changed
        }
        costs = {name: unit.vector_cost(name, weights) for name in unit.sketchers}
        for name, sketch in sketches.items():
            costs[name] += sketch.tails[0]
        spread = unit.spread(powers_of(weights))
        return cls(unit, content, is_same, is_stored, spread, costs, sketches, factors)

    def toward(self, content: Weights, share: float) -> "Difference":
        """That from a content which lies on the way to this one's: at `share` of the difference."""
        square = share * share
        return Difference(
            self.unit,
            content,
            False,
            False,
            {name: square * value for name, value in self.spread.items()},
            {name: square * value for name, value in self.costs.items()},
            {name: sketch.scaled(share) for name, sketch in self.sketches.items()},
        )


@dataclass(frozen=True, slots=True)
class SlotLoss:
    """What holding one matrix of a content in a slot's format costs one unit."""

    matrix: str
    cost: float
    noise: Noise

    def of_rounding(self, spread: float, bits: int) -> float:
        """The cost of rounding a difference of this spread; the slot's rounding moved weights too.

        What is rounded makes up for the slot's rounding.
        """
        return self.noise.factors[self.matrix, bits] * (spread + FEEDBACK * self.cost)


class Offers(Protocol):
    """Residuals of one kind for one difference; what they have in common is computed once."""

    def residuals(self, loss: SlotLoss) -> Iterator[tuple[Formats, float]]:
        """Residuals of one matrix that may be worth their bytes, and the error expected with each.

        loss: of the matrix in the slot that they are added to.
        """
        ...

    def whole(self, slot: Format) -> Iterator[tuple[Format, float]]:
        """Residuals for all matrices together on a slot in this format, and the error with each."""
        ...


class NoOffers:
    """`Offers` of a kind that has nothing to offer."""

    def residuals(self, loss: SlotLoss) -> Iterator[tuple[Formats, float]]:
        """See `Offers.residuals`."""
        yield from ()

    def whole(self, slot: Format) -> Iterator[tuple[Format, float]]:
        """See `Offers.whole`."""
        yield from ()


@dataclass(frozen=True, slots=True)
class PartWanted:
    """What a part is to hold. Vectors are stored as they are.

    weights: for a slot its content, for a residual what is left of a difference.   metric: of each
    matrix, by name.   stored: the expert's own tensors and its slot's, where a residual replaces.
    """

    weights: Weights
    metric: Callable[[str], Metric]
    shape: ExpertShape
    dtype: torch.dtype
    stored: tuple[Tensors, Tensors] | None = None


class Cost(Protocol):
    """What parts of one kind of format cost."""

    @property
    def slots(self) -> Formats:
        """Formats in which a slot is tried."""
        ...

    @property
    def residuals(self) -> Formats:
        """Formats of this kind that offers hold."""
        ...

    def of_slot(self, fmt: Format, spread: Spread, noise: Noise) -> Mapping[str, float]:
        """By matrix, what a slot in one of `slots` costs whose content has this spread."""
        ...

    def products(self, fmt: Format, shape: ExpertShape) -> float:
        """Time of one row through a part, in products of codes of one plane with x."""
        ...

    def offers(self, difference: Difference) -> Offers:
        """What this kind offers for a difference."""
        ...

    def fit(self, fmt: Format, wanted: PartWanted) -> dict[str, torch.Tensor]:
        """The tensors of a part that is as near to what is wanted as the format allows."""
        ...


@functools.cache
def cost_of(kind: str) -> Cost:
    """What parts of a kind of format cost, as its own file says."""
    found: Cost = import_module(f"consolidation.compare.{kind}_cost").COST
    return found
