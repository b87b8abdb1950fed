"""Tries statistics: rounds experts, and compares what that changes with what is predicted."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from consolidation.arithmetic.metric import Metric
from consolidation.arithmetic.rounding import round_matrices
from consolidation.statistics.scoring import HEAD_TOKENS, divergence, inputs_of
from consolidation.statistics.stored import StatisticsStore
from consolidation.statistics.windows import Window
from consolidation.walk.asked import Asked, Pairs
from consolidation.walk.experts_forward import output
from consolidation.walk.forward import HELD_BYTES, share
from consolidation.walk.layers import Layer
from consolidation.walk.scratch import Scratch
from consolidation.walk.side_by_side import Mapped, SideBySide
from consolidation.walk.streamed import StreamedModel
from representation.formats import Packed

PROBE_TOKENS = 8192
ROUNDED_EXPERTS = 32
"""Of a layer: rounding takes long, and so many tell what rounding any of them does."""
ROUNDED_BYTES = 1 << 27
"""Weights in float32 that a device rounds together: one expert is little work for many operations.
"""
ROUNDING = 1000
"""Rounding experts takes about as long as so many tokens take to go through the model."""
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

    Measured on windows that the statistics have not seen. Each expert is read once: windows go
    through it as it is, and after each rounding.
    -> the factor that makes the metrics right for the coarsest rounding, and (cost, divergence) by
    rounding with metrics so scaled
    """
    windows = list(_some(probes))
    kinds = range(len(roundings) + 1)
    inputs = [inputs_of(window, model.device) for _ in kinds for window in windows]
    costs = [list[float]() for _ in roundings]
    with Scratch(HELD_BYTES) as states:
        together = SideBySide(model, inputs, states, mapped)

        def compute(layer: Layer, asked: Asked, mapped: Mapped[Any]) -> torch.Tensor:
            rounded = _Rounded(model, layer, name, roundings, store, asked)
            return asked.summed(rounded.outputs(mapped, costs))

        for layer in together.layers():
            for number in together.forwards(layer, compute=compute):
                model.passed(share(model, inputs[number], layer.in_list))
        measured = _divergences(together, windows, kinds)
    return _factor([math.fsum(one) for one in costs], measured)


def probing_work(probes: Sequence[Window], roundings: Sequence[Packed]) -> float:
    """What `probe` does, as `walk/course.py` counts it."""
    tokens = sum(window.work for window in _some(probes))
    return (1 + len(roundings)) * tokens + len(roundings) * ROUNDING


@dataclass(frozen=True, slots=True)
class _Rounded:
    """A layer whose experts compute tokens as they are, and others after each rounding.

    asked: of as many tokens for each kind, one kind after another: as it is, by rounding
    """

    model: StreamedModel
    layer: Layer
    name: str
    roundings: Sequence[Packed]
    store: StatisticsStore
    asked: Asked

    def outputs(
        self, mapped: Mapped[Any], costs: Sequence[list[float]]
    ) -> Iterator[tuple[Pairs, torch.Tensor]]:
        """What each expert gives. Adds what roundings cost, as predicted, to `costs`."""
        chosen = {pairs.expert: pairs for pairs in self.asked.pairs()}
        num_experts = self.model.experts[self._number].num_experts
        rounded = range(num_experts)[:: max(1, num_experts // ROUNDED_EXPERTS)]
        at_once = self._at_once()
        jobs = [rounded[first : first + at_once] for first in range(0, len(rounded), at_once)]
        one_of_all = ROUNDING * len(self.roundings) / len(rounded) / len(self.model.layers)
        for own, (found, cost) in zip(
            jobs, mapped(partial(self._round, chosen), jobs), strict=True
        ):
            self.model.passed(one_of_all * len(own))
            for total, parts in zip(costs, cost, strict=True):
                total.extend(parts)
            yield from found
        others = [pairs for expert, pairs in chosen.items() if expert not in rounded]
        yield from mapped(self._plain, others)

    @torch.no_grad()
    def _plain(self, pairs: Pairs) -> tuple[Pairs, torch.Tensor]:
        return pairs, self._output(self._read(pairs.expert), pairs)

    @torch.no_grad()
    def _round(
        self, chosen: Mapping[int, Pairs], own: Sequence[int]
    ) -> tuple[list[tuple[Pairs, torch.Tensor]], list[list[float]]]:
        """Each rounding is of what the one before it left."""
        matrices = self.model.experts[self._number].shape.matrices
        device = self.model.device
        metrics = [
            self.store.unscaled(self.name, self._number, index, matrices, device) for index in own
        ]
        experts = [dict(self._read(index)) for index in own]
        found, costs = [], []
        for kind, fmt in enumerate((None, *self.roundings)):
            if fmt is not None:
                costs.append(self._rounded(experts, fmt, metrics))
            for index, expert in zip(own, experts, strict=True):
                if index in chosen:
                    pairs = self._of_kind(chosen[index], kind)
                    found.append((pairs, self._output(expert, pairs)))
        return found, costs

    def _rounded(
        self,
        experts: Sequence[dict[str, torch.Tensor]],
        fmt: Packed,
        metrics: Sequence[Mapping[str, Metric]],
    ) -> list[float]:
        """Round experts, in the place of what they were. -> what it costs"""
        is_transposed = self._module.is_transposed
        costs = []
        for matrix in sorted(metrics[0]):
            uprights = [one[matrix].T if is_transposed else one[matrix] for one in experts]
            own = [one[matrix] for one in metrics]
            rounded = round_matrices(uprights, fmt, own)
            for expert, upright, metric, one in zip(experts, uprights, own, rounded, strict=True):
                costs.append(metric.noise_cost(one.values - upright))
                expert[matrix] = one.values.T if is_transposed else one.values
        return costs

    def _of_kind(self, pairs: Pairs, kind: int) -> Pairs:
        num_tokens = len(self.asked.hidden) // (len(self.roundings) + 1)
        own = pairs.tokens // num_tokens == kind
        return Pairs(pairs.expert, pairs.tokens[own], pairs.places[own])

    def _output(self, expert: Mapping[str, torch.Tensor], pairs: Pairs) -> torch.Tensor:
        return output(self._module, expert, self.asked.hidden[pairs.tokens])

    def _at_once(self) -> int:
        if self.model.device.type == "cpu":
            return 1
        return max(1, ROUNDED_BYTES // (4 * self.model.experts[self._number].shape.num_weights))

    @property
    def _number(self) -> int:
        assert self.layer.experts is not None
        return self.layer.experts

    @property
    def _module(self) -> Any:
        return self.model.experts_module(self._number)

    def _read(self, index: int) -> Mapping[str, torch.Tensor]:
        return self.model.expert_reader(self._number)(index)


def _divergences(together: SideBySide, windows: Sequence[Window], kinds: range) -> list[float]:
    """The mean divergence of each kind of rounding from the model as it is, per scored token."""
    model = together.model

    @torch.no_grad()
    def differs(number: int) -> list[float]:
        scored = range(windows[number].first_scored - 1, len(windows[number].tokens) - 1)
        found: list[list[float]] = [[] for _ in kinds[1:]]
        outs = [together.out(kind * len(windows) + number) for kind in kinds]
        for start in scored[::HEAD_TOKENS]:
            part = slice(start, min(start + HEAD_TOKENS, scored.stop))
            before, *others = (
                model.leave(out[:, part].to(model.device))[0].float() for out in outs
            )
            for one, logits in zip(found, others, strict=True):
                one.append(divergence(before, logits))
        return [math.fsum(one) for one in found]

    with model.ends():
        by_kind = zip(*together.mapped(differs, range(len(windows))), strict=True)
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
    num_tokens = sum(window.num_tokens for window in windows)
    yield from windows[:: max(1, round(num_tokens / PROBE_TOKENS))]
