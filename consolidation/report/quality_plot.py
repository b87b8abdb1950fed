"""Plots quality against bytes: a point per method, a line through releases. Computes nothing."""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from consolidation.report.drawing import (
    BLUE,
    EDGE,
    NEGLIGIBLE,
    figure,
    log_with_zero,
    looks,
    shortened,
    svg,
)
from consolidation.report.findings import Findings, MethodResult

KlOf = Callable[[MethodResult], float | None]
OURS: dict[str, Any] = {"color": BLUE, "marker": "o", "lw": 2.4, "ms": 7, "mec": EDGE, "zorder": 3}
OTHERS: dict[str, Any] = {"ls": ":", "mfc": "none", "mew": 1.4}
"""Hollow, so that no method hides another one close to it."""
LONGEST = 22
"""Characters of a name for which a panel has room."""
BYTES = "expert bytes ÷ those of one model"
KL = "KL to the original (nats per token)"


def mean_frontier(findings: Findings) -> str:
    """The mean over models, large, with a legend."""
    with figure(8.6, 4.6) as drawn:
        axes = drawn.subplots()
        _draw([(axes, lambda result: result.mean_kl)], findings)
        axes.set_ylabel(f"mean {KL}")
        axes.set_xlabel(BYTES)
        drawn.legend(handles=_handles(findings), loc="outside right upper", labelspacing=0.7)
        return svg(drawn, "Mean divergence against bytes, every method")


def model_frontiers(findings: Findings) -> str:
    """One panel for each model, all on the same scales."""
    num_columns = min(4, len(findings.models))
    num_rows = math.ceil(len(findings.models) / num_columns)
    with figure(2.15 * num_columns + 0.5, 2.2 * num_rows + 0.4) as drawn:
        panels = drawn.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(findings.models) :]:
            axes.set_visible(False)
        of_models = []
        for model, axes in zip(findings.models, panels.flat, strict=False):
            axes.set_title(shortened(model, LONGEST))
            of_models.append((axes, partial(MethodResult.kl, model=model)))
        _draw(of_models, findings)
        drawn.supxlabel(BYTES, size="medium")
        drawn.supylabel("KL (nats per token)", size="medium")
        return svg(drawn, "Divergence against bytes, for each model")


def _draw(panels: Sequence[tuple[Axes, KlOf]], findings: Findings) -> None:
    """Points and lines in each panel, on scales that fit the points of all panels."""
    points: list[tuple[float, float]] = []
    for axes, kl_of in panels:
        for (_, results), (colour, marker) in _series(findings):
            points += _line(axes, _points(results, kl_of), color=colour, marker=marker, **OTHERS)
        ours = _points(findings.releases, kl_of)
        points += _line(axes, ours, **OURS)
    kls = [kl for _, kl in points]
    for axes, _ in panels:
        axes.set_yscale(**log_with_zero(kls))
        axes.set_ylim(0, 1.7 * max(kls, default=0.0) or NEGLIGIBLE)
        axes.set_xlim(0, 1.08 * max((ratio for ratio, _ in points), default=1.0))


def _line(axes: Axes, points: list[tuple[float, float]], **look: Any) -> list[tuple[float, float]]:
    if points:
        axes.plot(*zip(*points, strict=True), clip_on=False, **look)
    return points


def _points(results: Sequence[MethodResult], kl_of: KlOf) -> list[tuple[float, float]]:
    found = ((result.ratio, kl_of(result)) for result in results)
    return sorted((ratio, kl) for ratio, kl in found if kl is not None and math.isfinite(kl))


def _series(findings: Findings) -> list[tuple[tuple[str, list[MethodResult]], tuple[str, str]]]:
    """Methods whose names differ only in a number are one series, with its own colour and marker.

    The worst comes first, so that the legend is in the order of the plot, from the top.
    """
    found: dict[str, list[MethodResult]] = {}
    for result in sorted(findings.others, key=_badness, reverse=True):
        found.setdefault(re.sub(r"\d+", "k", result.name), []).append(result)
    named = [
        (results[0].name if len(results) == 1 else key, results) for key, results in found.items()
    ]
    return list(zip(named, looks(len(named)), strict=True))


def _badness(result: MethodResult) -> float:
    return result.mean_kl if result.mean_kl is not None else math.inf


def _handles(findings: Findings) -> list[Line2D]:
    handles = []
    for (name, results), (colour, marker) in _series(findings):
        look = OTHERS if len(results) > 1 else {**OTHERS, "ls": "none"}
        handles.append(Line2D([], [], color=colour, marker=marker, label=name, **look))
    if findings.releases:
        handles.append(Line2D([], [], label="releases", **OURS))
    return handles
