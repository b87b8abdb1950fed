"""How the time of a decode step outside matrix products grows with places and with experts."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.bench.bars.decoding import Decoding, open_engine
from serve_app.bench.bars.profiling import profiled
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.grid import GridPoint, models_of
from serve_app.bench.step.session import Session, running
from serve_app.engine.source import ReleaseSource

PLACES = (16, 32, 64)
EXPERTS = (8, 16, 32, 64)
SEQUENCES = 64
"""Sequences in each step of the places curve: one per model at the largest size."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One size of one curve: medians over steps, in seconds."""

    size: int
    step_s: float
    products_s: float
    outside_s: float

    def to_json(self) -> dict[str, float]:
        return {
            "size": self.size,
            "step_s": self.step_s,
            "products_s": self.products_s,
            "outside_s": self.outside_s,
        }


def scaling(
    of_places: Callable[[int], ReleaseSource],
    of_experts: Callable[[int], ReleaseSource],
    *,
    places: Sequence[int] = PLACES,
    experts: Sequence[int] = EXPERTS,
    sequences: int = SEQUENCES,
    steps: int = 8,
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """The larger growth of the two curves: time ratio divided by size ratio, from first to last.

    1 is growth in proportion to the size. of_places: makes a release with that many models, all in
    each step.   of_experts: makes one with that many experts a layer, again with all models.
    sequences: in each step of the places curve; the other has 4 of each model.
    """
    total = len(places) + len(experts)
    curves: dict[str, list[Spot]] = {"places": [], "experts": []}
    for name, sizes, source_of in (
        ("places", places, of_places),
        ("experts", experts, of_experts),
    ):
        for size in sizes:
            on_progress("scaling", sum(map(len, curves.values())), total)
            source = source_of(size)
            each = sequences // size if name == "places" else 4
            curves[name].append(_spot(size, source, Decoding(max(1, each), 16, steps)))
    on_progress("scaling", total, total)
    return growth(curves)


def growth(curves: Mapping[str, Sequence[Spot]]) -> Measured:
    """What `scaling` reports about its curves."""
    ratios = {
        name: (spots[-1].outside_s / spots[0].outside_s) / (spots[-1].size / spots[0].size)
        for name, spots in curves.items()
    }
    facts: dict[str, Any] = {
        "time_ratio_over_size_ratio": ratios,
        "curves": {name: [spot.to_json() for spot in spots] for name, spots in curves.items()},
    }
    return Measured(max(ratios.values()), facts)


def _spot(size: int, source: ReleaseSource, wanted: Decoding) -> Spot:
    names = sorted(source.models)
    num = wanted.sequences * len(names)
    models = list(models_of(GridPoint("decode", len(names), num, wanted.context), names))
    with running(open_engine(source, wanted), source) as engine:
        session = Session(engine, source, step_tokens=wanted.step_tokens)
        session.warm(names)
        session.begin(models, wanted.context, 2 * wanted.steps)
        found = [profiled(lambda: session.step()[0]) for _ in range(wanted.steps)]
        session.end()
    steps = statistics.median(seconds for seconds, _ in found)
    products = statistics.median(products for _, products in found)
    outside = statistics.median(seconds - products for seconds, products in found)
    return Spot(size, steps, products, outside)
