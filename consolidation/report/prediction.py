"""Plots predicted against measured divergence, a point for each model of each release."""

import math

from consolidation.report.drawing import (
    EDGE,
    INK,
    NEGLIGIBLE,
    figure,
    log_with_zero,
    looks,
    shortened,
    svg,
)
from consolidation.report.findings import Findings

MIN_FOR_RANKS = 3
"""With fewer points, a rank correlation says nothing."""
LONGEST = 30
"""Characters of a name for which there is room."""


def predictions(findings: Findings) -> list[tuple[str, float, float]]:
    """(model, predicted, measured), if both are known numbers."""
    return [
        (one.model, one.predicted_kl, one.kl)
        for release in findings.releases
        for one in release.models
        if one.predicted_kl is not None and math.isfinite(one.predicted_kl + one.kl)
    ]


def rank_correlation(points: list[tuple[str, float, float]]) -> float | None:
    """Spearman's, between predicted and measured; None if there are too few points or all equal."""
    from scipy.stats import spearmanr

    predicted = [before for _, before, _ in points]
    measured = [after for _, _, after in points]
    if len(points) < MIN_FOR_RANKS or len(set(predicted)) == 1 or len(set(measured)) == 1:
        return None
    return float(spearmanr(predicted, measured).statistic)


def prediction_plot(findings: Findings) -> str | None:
    """The points, and the line where both are equal; None if nothing was predicted."""
    points = predictions(findings)
    if not points:
        return None
    num_models = len({model for model, _, _ in points})
    with figure(5.4, 3.8 + 0.17 * math.ceil(num_models / 2)) as drawn:
        axes = drawn.subplots()
        for model, (colour, marker) in zip(
            findings.models, looks(len(findings.models)), strict=True
        ):
            mine = [(before, after) for name, before, after in points if name == model]
            if mine:
                axes.plot(
                    *zip(*mine, strict=True),
                    color=colour,
                    marker=marker,
                    ls="",
                    label=shortened(model, LONGEST),
                    mec=EDGE,
                    clip_on=False,
                )
        values = [value for _, before, after in points for value in (before, after)]
        axes.set_xscale(**log_with_zero(values))
        axes.set_yscale(**log_with_zero(values))
        limits = (0.0, 1.7 * max(values) or NEGLIGIBLE)
        axes.set(xlim=limits, ylim=limits)
        axes.plot(limits, limits, color=INK, lw=0.8, zorder=1)
        axes.set_xlabel("predicted KL (nats per token)")
        axes.set_ylabel("measured KL (nats per token)")
        drawn.legend(loc="outside lower left", ncols=2)
        return svg(drawn, "Predicted against measured divergence")
