"""Scores windows of tokens by a model's logits: divergence and loss. Loads and keeps no model.

Everything is computed in float32, whatever dtype is stored: rounding to a narrower dtype would add
its own noise to the comparison. One thread computes a window, several windows at a time, so that
sums have one order: results are part of a release's digest and must not depend on the number of
threads.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.nn import functional

from consolidation.statistics.positions import PART, Figures, Positions, divergences
from consolidation.statistics.text import Window
from consolidation.walk.course import FILLING
from consolidation.walk.forward import forward_each
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import Seen, StreamedModel

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Scores:
    """Over all scored tokens: sums of losses in nats, and how far the release is from the original.

    figures: None where it was not run, since it is the original.
    """

    loss_original: float
    loss_release: float
    tokens: int
    figures: Figures | None = None


def loss(logits: torch.Tensor, window: Window) -> float:
    """Sum of negative log-likelihoods of the scored tokens. logits: (scored, V)"""
    targets = torch.tensor(window.tokens[window.first_scored :], device=logits.device)
    parts = zip(logits.split(PART), targets.split(PART), strict=True)
    return math.fsum(
        float(functional.cross_entropy(part.double(), wanted, reduction="sum"))
        for part, wanted in parts
    )


def divergence(original: torch.Tensor, release: torch.Tensor) -> float:
    """Sum over positions of KL(original || release). Both (scored, V), logits."""
    return math.fsum(divergences(original, release).tolist())


def each_window(
    model: StreamedModel,
    windows: Sequence[Window],
    function: Callable[[int, torch.Tensor], Result],
    seen: Callable[[int], Seen] | None = None,
) -> Iterator[Result]:
    """Yield `function` of each window's number and the logits that predict its scored tokens.

    logits: (scored, V). `seen` is as in `forward_each`; all windows go through the model at once.
    """
    inputs = [
        {"input_ids": torch.tensor([window.tokens], device=model.device), "use_cache": False}
        for window in windows
    ]

    def scored(number: int, logits: torch.Tensor) -> Result:
        first = windows[number].first_scored
        return function(number, logits[0, first - 1 : -1].float())

    return forward_each(model, inputs, scored, seen)


def scoring_work(windows: Sequence[Window]) -> int:
    """What taking windows through one model is, as `walk/course.py` counts it."""
    return FILLING + sum(len(window.tokens) for window in windows)


def score_original(model: StreamedModel, windows: Sequence[Window], kept: Scratch | None) -> Scores:
    """Score a model against itself, and keep its logits by window where `kept` is given."""

    def run(number: int, logits: torch.Tensor) -> float:
        if kept is not None:
            kept.put(number, logits)
        return loss(logits, windows[number])

    total = math.fsum(each_window(model, windows, run))
    num_tokens = sum(len(window.tokens) - window.first_scored for window in windows)
    return Scores(total, total, num_tokens)


def score_release(
    model: StreamedModel, windows: Sequence[Window], kept: Scratch, original: Scores
) -> Scores:
    """Score the model of the release against the kept logits of the original."""

    def run(number: int, logits: torch.Tensor) -> tuple[float, Positions]:
        window = windows[number]
        before = kept.get(number).to(logits.device)
        tokens = window.tokens[window.first_scored :]
        return loss(logits, window), Positions.between(before, logits, tokens)

    losses, positions = zip(*each_window(model, windows, run), strict=True)
    figures = Positions.joined(positions).figures()
    return Scores(original.loss_original, math.fsum(losses), original.tokens, figures)
