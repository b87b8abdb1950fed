"""Tries statistics: rounds all experts, and compares what that changes with what is predicted."""

import math
from collections.abc import Iterator, Sequence

import torch

from consolidation.arithmetic.rounding import round_matrices
from consolidation.statistics.scoring import divergence
from consolidation.statistics.stored import StatisticsStore
from consolidation.statistics.text import Window
from consolidation.walk.forward import HELD_BYTES, enter_each
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import Layer, StreamedModel
from representation.formats import Packed

PROBE_TOKENS = 8192
ROUNDED_BYTES = 1 << 30
"""Weights in float32 that a device rounds together: one expert is little work for many operations.
"""
ROUNDING = 2000
"""Rounding all experts takes about as long as so many tokens take to go through the model."""
MOST_OFF = 30.0
"""Measured divergence over predicted, or the reverse: a larger factor is taken as this one."""


@torch.no_grad()
def probe(
    model: StreamedModel,
    name: str,
    probes: Sequence[Window],
    roundings: Sequence[Packed],
    store: StatisticsStore,
) -> tuple[float, list[tuple[float, float]]]:
    """Round all experts, and compare the divergence measured with the cost predicted.

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
        for layer in model.filled():
            for kind in kinds:
                if kind > 0:
                    for cost in _rounded(model, layer, name, roundings[kind - 1], store):
                        costs[kind - 1] += cost
                for number, call in enumerate(calls):
                    hidden = model.run(layer, states.get((kind, number)), call)
                    states.put((kind, number), hidden)
                    model.passed(len(windows[number].tokens) / len(model.layers))
        measured = _divergences(model, windows, states, kinds)
    return _factor(costs, measured)


def probing_work(probes: Sequence[Window], roundings: Sequence[Packed]) -> int:
    """What `probe` does, as `walk/course.py` counts it."""
    tokens = sum(len(window.tokens) for window in _some(probes))
    return (1 + len(roundings)) * tokens + len(roundings) * ROUNDING


def _rounded(
    model: StreamedModel, layer: Layer, name: str, fmt: Packed, store: StatisticsStore
) -> Iterator[float]:
    """Round a filled layer's experts, in place. -> predicted costs, by matrix, then by expert"""
    if layer.experts is None:
        return
    experts = model.whole_experts(layer)
    shape = model.experts[layer.experts].shape
    costs: dict[str, list[float]] = {matrix: [] for matrix in sorted(shape.matrices)}
    step = 1 if model.device.type == "cpu" else max(1, ROUNDED_BYTES // (4 * shape.num_weights))
    for start in range(0, experts.num_experts, step):
        indices = range(start, min(start + step, experts.num_experts))
        model.passed(ROUNDING * len(indices) / experts.num_experts / len(model.layers))
        own = [store.unscaled(name, layer.experts, i, costs, model.device) for i in indices]
        for matrix in costs:
            weights = [getattr(experts, matrix)[index] for index in indices]
            uprights = [one.T if experts.is_transposed else one for one in weights]
            metrics = [found[matrix] for found in own]
            for upright, metric, rounded in zip(
                uprights, metrics, round_matrices(uprights, fmt, metrics), strict=True
            ):
                error = rounded.values - upright
                upright += error
                costs[matrix].append(metric.noise_cost(error))
    for found in costs.values():
        yield from found


def _divergences(
    model: StreamedModel, windows: Sequence[Window], states: Scratch, kinds: range
) -> list[float]:
    """The mean divergence of each kind of rounding from the model as it is, per scored token."""
    found: list[list[float]] = [[] for _ in kinds[1:]]
    with model.ends():
        for number, window in enumerate(windows):

            def logits(kind: int, number: int = number, window: Window = window) -> torch.Tensor:
                hidden = states.get((kind, number)).to(model.device)
                return model.leave(hidden)[0, window.first_scored - 1 : -1].float()

            before = logits(0)
            for kind in kinds[1:]:
                found[kind - 1].append(divergence(before, logits(kind)))
    num_scored = sum(len(window.tokens) - window.first_scored for window in windows)
    return [max(0.0, math.fsum(one) / num_scored) for one in found]


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
