"""Tries statistics: rounds experts, and compares what that changes with what is predicted."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from consolidation.arithmetic.rounding import round_matrices
from consolidation.statistics.scoring import divergence
from consolidation.statistics.stored import StatisticsStore
from consolidation.statistics.text import Window
from consolidation.walk.forward import HELD_BYTES, Mapped, enter_each
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import Layer, StreamedModel
from representation.formats import Packed

PROBE_TOKENS = 8192
ROUNDED_EXPERTS = 32
"""Of a layer: rounding takes long, and so many tell what rounding any of them does."""
ROUNDED_BYTES = 1 << 27
"""Weights in float32 that a device rounds together: one expert is little work for many operations.
"""
ROUNDING = 1000
"""Rounding experts takes about as long as so many tokens take to go through the model."""
HEAD_TOKENS = 128
"""Positions that have logits at a time."""
MOST_OFF = 30.0
"""Measured divergence over predicted, or the reverse: a larger factor is taken as this one."""


@torch.no_grad()
def probe(
    model: StreamedModel,
    name: str,
    probes: Sequence[Window],
    roundings: Sequence[Packed],
    store: StatisticsStore,
    mapped: Mapped[Any],
) -> tuple[float, list[tuple[float, float]]]:
    """Round experts, and compare the divergence measured with the cost predicted.

    Measured on windows that the statistics have not seen. Each layer is filled once: windows go
    through it as it is, and again after each rounding, which is of what the one before it left.
    -> the factor that makes the metrics right for the coarsest rounding, and (cost, divergence) by
    rounding with metrics so scaled
    """
    windows = list(_some(probes))
    inputs = [
        {"input_ids": torch.tensor([window.tokens], device=model.device), "use_cache": False}
        for window in windows
    ]
    kinds = range(len(roundings) + 1)
    costs = [0.0] * len(roundings)
    with Scratch(HELD_BYTES) as states:

        def keep(number: int, hidden: torch.Tensor) -> None:
            for kind in kinds:
                states.put((kind, number), hidden)

        calls = enter_each(model, inputs, keep)

        @torch.no_grad()
        def through(layer: Layer, kind: int, number: int) -> None:
            hidden = model.run(layer, states.get((kind, number)), calls[number])
            states.put((kind, number), hidden)

        for layer in model.filled():
            for kind in kinds:
                if kind > 0:
                    fmt = roundings[kind - 1]
                    costs[kind - 1] += _round(model, layer, name, fmt, store, mapped)
                each = mapped(partial(through, layer, kind), range(len(windows)))
                for number, _ in enumerate(each):
                    model.passed(len(windows[number].tokens) / len(model.layers))
        measured = _divergences(model, windows, states, kinds, mapped)
    return _factor(costs, measured)


def probing_work(probes: Sequence[Window], roundings: Sequence[Packed]) -> int:
    """What `probe` does, as `walk/course.py` counts it."""
    tokens = sum(len(window.tokens) for window in _some(probes))
    return (1 + len(roundings)) * tokens + len(roundings) * ROUNDING


def _round(
    model: StreamedModel,
    layer: Layer,
    name: str,
    fmt: Packed,
    store: StatisticsStore,
    mapped: Mapped[Any],
) -> float:
    """Round some of a filled layer's experts, in place. -> what it costs, as predicted"""
    if layer.experts is None:
        return 0.0
    number = layer.experts
    experts = model.whole_experts(layer)
    shape = model.experts[number].shape
    indices = range(experts.num_experts)[:: max(1, experts.num_experts // ROUNDED_EXPERTS)]
    at_once = 1
    if model.device.type != "cpu":
        at_once = max(1, ROUNDED_BYTES // (4 * shape.num_weights))

    @torch.no_grad()
    def some(first: int) -> float:
        costs = []
        own = indices[first : first + at_once]
        found = [store.unscaled(name, number, i, shape.matrices, model.device) for i in own]
        for matrix in sorted(shape.matrices):
            weights = [getattr(experts, matrix)[index] for index in own]
            uprights = [one.T if experts.is_transposed else one for one in weights]
            metrics = [one[matrix] for one in found]
            rounded = round_matrices(uprights, fmt, metrics)
            for upright, metric, one in zip(uprights, metrics, rounded, strict=True):
                error = one.values - upright
                upright += error
                costs.append(metric.noise_cost(error))
        return math.fsum(costs)

    costs = []
    for cost in mapped(some, range(0, len(indices), at_once)):
        costs.append(cost)
        model.passed(ROUNDING * at_once / len(indices) / len(model.layers))
    return math.fsum(costs)


def _divergences(
    model: StreamedModel,
    windows: Sequence[Window],
    states: Scratch,
    kinds: range,
    mapped: Mapped[Any],
) -> list[float]:
    """The mean divergence of each kind of rounding from the model as it is, per scored token."""

    @torch.no_grad()
    def differs(number: int) -> list[float]:
        scored = range(windows[number].first_scored - 1, len(windows[number].tokens) - 1)
        found: list[list[float]] = [[] for _ in kinds[1:]]
        for start in scored[::HEAD_TOKENS]:
            part = slice(start, min(start + HEAD_TOKENS, scored.stop))
            before, *others = (
                model.leave(states.get((kind, number))[:, part].to(model.device))[0].float()
                for kind in kinds
            )
            for one, logits in zip(found, others, strict=True):
                one.append(divergence(before, logits))
        return [math.fsum(one) for one in found]

    with model.ends():
        by_kind = zip(*mapped(differs, range(len(windows))), strict=True)
        num_scored = sum(len(window.tokens) - window.first_scored for window in windows)
        return [max(0.0, math.fsum(one) / num_scored) for one in by_kind]


def _factor(
    costs: Sequence[float], measured: Sequence[float]
) -> tuple[float, list[tuple[float, float]]]:
    factor = 1.0
    if costs[-1] > 0 and measured[-1] > 0:
        factor = min(MOST_OFF, max(1 / MOST_OFF, measured[-1] / costs[-1]))
    return factor, [(factor * cost, kl) for cost, kl in zip(costs, measured, strict=True)]


def _some(windows: Sequence[Window]) -> Iterator[Window]:
    """Windows spread over all of them, with about `PROBE_TOKENS` tokens."""
    num_tokens = sum(len(window.tokens) for window in windows)
    yield from windows[:: max(1, round(num_tokens / PROBE_TOKENS))]
