"""Scores windows of tokens by a model's logits: divergence and loss. Loads and keeps no model.

Everything is computed in float32, whatever dtype is stored: rounding to a narrower dtype would add
its own noise to the comparison. One thread computes a window, several windows at a time, so that
sums have one order: results are part of a release's digest and must not depend on the number of
threads.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from consolidation.statistics.divergence import divergences, losses
from consolidation.statistics.positions import Figures, Positions
from consolidation.statistics.routing import Routes, agreement
from consolidation.statistics.windows import Window
from consolidation.walk.course import FILLING
from consolidation.walk.forward import HELD_BYTES, forward_each, share, through_layers
from consolidation.walk.scratch import Scratch
from consolidation.walk.side_by_side import SideBySide, one_thread_each
from consolidation.walk.streamed import Seen, StreamedModel

Result = TypeVar("Result")

HEAD_TOKENS = 128
"""Positions that have logits at a time."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Over all scored tokens: sums of losses in nats, and how far the release is from the original.

    figures: None where it was not run, since it is the original.   routers: by layer of experts,
    of how many tokens both prefer the same one.
    """

    loss_original: float
    loss_release: float
    tokens: int
    figures: Figures | None = None
    routers: tuple[float, ...] | None = None


def loss(logits: torch.Tensor, window: Window) -> float:
    """Sum of negative log-likelihoods of the scored tokens. logits: (scored, V)"""
    return math.fsum(losses(logits, _scored_tokens(window, logits.device)).tolist())


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
    inputs = [inputs_of(window, model.device) for window in windows]

    def scored(number: int, logits: torch.Tensor) -> Result:
        return function(number, logits[0].float())

    def positions(number: int) -> slice:
        return slice(windows[number].first_scored - 1, -1)

    return forward_each(model, inputs, scored, seen, positions)


def scoring_work(windows: Sequence[Window]) -> float:
    """What taking windows through one model is, as `walk/course.py` counts it."""
    return FILLING + sum(window.work for window in windows)


def score(
    original: StreamedModel, windows: Sequence[Window], other: StreamedModel | None = None
) -> Scores:
    """Score a model, and how far another is from it. other: None is the model itself.

    Hidden states of both are set aside, so that few positions have logits at a time. What lies
    behind the layers is in memory once where it is the same in both.
    """
    models = [original] if other is None else [original, other]
    inputs = [inputs_of(window, original.device) for window in windows]
    with ExitStack() as stack:
        mapped = stack.enter_context(one_thread_each(original.device, len(windows)))
        gone = [
            SideBySide(model, inputs, stack.enter_context(Scratch(HELD_BYTES)), mapped)
            for model in models
        ]
        routes = [Routes(len(windows), len(original.experts)) for _ in models]
        for together, own in zip(gone, routes, strict=True):
            through_layers(together, own.watch)
        stack.enter_context(original.ends())
        if other is not None:
            stack.enter_context(other.ends(beside=original))

        @torch.no_grad()
        def scored(number: int) -> list[Positions]:
            window, found = windows[number], []
            scored = range(window.first_scored - 1, len(window.tokens) - 1)
            for start in scored[::HEAD_TOKENS]:
                part = slice(start, min(start + HEAD_TOKENS, scored.stop))
                logits = [
                    model.leave(together.out(number)[:, part].to(model.device))[0].float()
                    for model, together in zip(models, gone, strict=True)
                ]
                standing = window.tokens[part.start + 1 : part.stop + 1]
                found.append(Positions.between(logits[0], logits[-1], standing))
            return found

        parts = []
        for number, found in enumerate(mapped(scored, range(len(windows)))):
            parts += found
            for model in models:
                model.passed(share(model, inputs[number]))
        positions = Positions.joined(parts)
        loss, other_loss = (
            math.fsum(one.tolist()) for one in (positions.loss, positions.other_loss)
        )
        scores = Scores(loss, other_loss, len(positions))
        if other is None:
            return scores
        same = [routes[0].same(routes[1], number) for number in range(len(windows))]
        return replace(scores, figures=positions.figures(), routers=agreement(same))


def inputs_of(window: Window, device: torch.device) -> dict[str, Any]:
    """What the stock forward is called with for a window alone."""
    return inputs_of_rows([window.tokens], [window.source], device)


def inputs_of_rows(
    tokens: Sequence[Sequence[int]], sources: Sequence[Sequence[int]], device: torch.device
) -> dict[str, Any]:
    """The same for rows of equal lengths."""
    if not sources[0]:
        return {"input_ids": torch.tensor(tokens, device=device), "use_cache": False}
    return {
        "input_ids": torch.tensor(sources, device=device),
        "decoder_input_ids": torch.tensor(tokens, device=device),
        "use_cache": False,
    }


def _scored_tokens(window: Window, device: torch.device) -> torch.Tensor:
    return torch.tensor(window.tokens[window.first_scored :], device=device)
