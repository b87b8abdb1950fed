"""Quality limits that a release must meet to be published. Measures nothing, stops nothing."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from consolidation.errors import Refused
from consolidation.evaluation.data import Files
from consolidation.evaluation.measures import ModelScore, retained
from consolidation.release import Quality
from representation.decimals import plain

ROUNDING = 1e-9
"""Rounding error between equal shares as floats: 0.805 - 0.795 is more than 0.01."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """The most that any model may lose, and the least that it keeps; None means no limit.

    max_kl: nats per token.   max_accuracy_drop: a share of all questions, 0.01 is one point.
    max_perplexity_rise: a share of the original's perplexity, 0.01 is one percent.
    min_retained: the least share of its effect that a model keeps, at most 1.
    """

    max_kl: float | None = None
    max_accuracy_drop: float | None = None
    max_perplexity_rise: float | None = None
    min_retained: float | None = None


def check_limits(limits: QualityLimits, files: Files, *, has_base: bool) -> None:
    """Raise `Refused` for a limit that is not a number, or that nothing given can measure."""
    given = {
        "divergence": limits.max_kl,
        "accuracy drop": limits.max_accuracy_drop,
        "perplexity rise": limits.max_perplexity_rise,
    }
    for what, value in given.items():
        if value is not None and math.isnan(value):
            raise Refused(f"the largest {what} allowed is {value}, which is not a number")
    least = limits.min_retained
    if least is not None and not least <= 1:
        raise Refused(f"the least effect retained is {least}, which is not a number of at most 1")
    if least is not None and not has_base:
        raise Refused("a limit on the effect retained needs the base that models were tuned from")
    if limits.max_accuracy_drop is not None and not files.tasks:
        raise Refused("a limit on the accuracy drop needs a task for at least one model")
    if limits.max_perplexity_rise is not None and not files.texts:
        raise Refused("a limit on the perplexity rise needs a text for at least one model")


def breaches(
    limits: QualityLimits, quality: Mapping[str, Quality], scores: Sequence[ModelScore]
) -> list[str]:
    """One sentence for each limit that a model exceeds, by model; empty if all is well.

    `quality` was measured on calibration text, `scores` on the models' own tasks and texts; the
    divergence and the effect are limited on both. A value that is not a number is beyond every
    limit.
    """
    found: list[str] = []
    for name in sorted(quality):
        one = quality[name]
        found += _divergence(limits, name, one.kl, "on the calibration text")
        found += _effect(limits, name, retained(one.kl, one.kl_base), "on the calibration text")
    for score in sorted(scores, key=lambda one: one.model):
        found += _divergence(limits, score.model, score.kl, "on its own data")
        found += _effect(limits, score.model, score.retained, "on its own data")
        found += _accuracy(limits, score)
        found += _perplexity(limits, score)
    return found


def _above(value: float, limit: float) -> bool:
    return not value <= limit + ROUNDING


def _divergence(limits: QualityLimits, name: str, kl: float, where: str) -> Iterator[str]:
    # No rounding here: a limit of 0 requires models that are the same to the last bit.
    if limits.max_kl is not None and not kl <= limits.max_kl:
        yield (
            f"model {name!r} is {plain(kl, digits=6)} nats per token from its original {where}, "
            f"more than the {plain(limits.max_kl, digits=6)} allowed"
        )


def _effect(limits: QualityLimits, name: str, kept: float | None, where: str) -> Iterator[str]:
    limit = limits.min_retained
    if limit is not None and kept is not None and not kept >= limit - ROUNDING:
        yield (
            f"model {name!r} keeps {100 * kept:.2f} % of its effect {where}, "
            f"less than the {100 * limit:g} % wanted"
        )


def _accuracy(limits: QualityLimits, score: ModelScore) -> Iterator[str]:
    limit, before, after = limits.max_accuracy_drop, score.accuracy_original, score.accuracy
    if limit is None or before is None or after is None:
        return
    if _above(before - after, limit):
        yield (
            f"model {score.model!r} has accuracy {after:.4f} on its task, its original "
            f"{before:.4f}: a drop of {before - after:.4f}, more than the {limit:g} allowed"
        )


def _perplexity(limits: QualityLimits, score: ModelScore) -> Iterator[str]:
    limit, before, after = limits.max_perplexity_rise, score.perplexity_original, score.perplexity
    if limit is None or before is None or after is None:
        return
    rise = after / before - 1
    if _above(rise, limit):
        yield (
            f"model {score.model!r} has perplexity {after:.4f} on its text, its original "
            f"{before:.4f}: a rise of {100 * rise:.3f} %, more than the {100 * limit:g} % allowed"
        )
