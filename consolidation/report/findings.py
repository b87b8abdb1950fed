"""The values that a report shows, wherever they were measured. Draws nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consolidation.evaluation.measures import MethodScore, ModelScore
from consolidation.release import Manifest, Quality


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model under one method. Pairs are (original, method); None if not measured."""

    model: str
    kl: float
    predicted_kl: float | None
    perplexity: tuple[float, float] | None
    accuracy: tuple[float, float] | None
    kl_99: float | None = None
    kl_999: float | None = None
    rms_dp: float | None = None
    retained: float | None = None
    token_agreement: float | None = None
    router_agreement: tuple[float, ...] = ()

    @property
    def mean_router_agreement(self) -> float | None:
        """The mean over layers."""
        layers = self.router_agreement
        return math.fsum(layers) / len(layers) if layers else None

    @property
    def least_router_agreement(self) -> float | None:
        """That of the layer whose router agrees least."""
        return min(self.router_agreement, default=None)


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One method, or release: `ratio` is its expert bytes over those of one model.

    `by_validation`: measured as the release was made, and not by `evaluate`.
    """

    name: str
    num_bytes: int
    ratio: float
    models: tuple[ModelResult, ...]
    by_validation: bool = False

    @property
    def mean_kl(self) -> float | None:
        """The mean over models with equal weights; None if none was measured."""
        return math.fsum(one.kl for one in self.models) / len(self.models) if self.models else None

    def kl(self, model: str) -> float | None:
        """That of one model; None if the method was not measured on it."""
        return next((one.kl for one in self.models if one.model == model), None)


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything on the page. Results of releases are in the order of `manifests`."""

    manifests: tuple[Manifest, ...]
    releases: tuple[MethodResult, ...]
    others: tuple[MethodResult, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """All models for which anything was measured, sorted."""
        results = (*self.releases, *self.others)
        return tuple(sorted({one.model for result in results for one in result.models}))


def findings(
    releases: Sequence[tuple[Manifest, MethodScore | None]], others: Sequence[MethodScore]
) -> Findings:
    """Releases with their scores, or else with what was measured when the release was made."""
    return Findings(
        manifests=tuple(manifest for manifest, _ in releases),
        releases=tuple(_of_release(manifest, score) for manifest, score in releases),
        others=tuple(_of_score(score, score.method) for score in others),
    )


def _of_release(manifest: Manifest, score: MethodScore | None) -> MethodResult:
    if score is not None:
        return _of_score(score, manifest.id)
    return MethodResult(
        name=manifest.id,
        num_bytes=manifest.expert_bytes_after,
        ratio=manifest.expert_bytes_after / manifest.expert_bytes_one_model,
        models=tuple(_of_quality(manifest.quality)),
        by_validation=True,
    )


def _of_score(score: MethodScore, name: str) -> MethodResult:
    models = tuple(_of_model(one) for one in score.models)
    return MethodResult(name, score.expert_bytes, score.bytes_of_one_model, models)


def _of_model(score: ModelScore) -> ModelResult:
    return ModelResult(
        model=score.model,
        kl=score.kl,
        predicted_kl=score.predicted_kl,
        perplexity=_pair(score.perplexity_original, score.perplexity),
        accuracy=_pair(score.accuracy_original, score.accuracy),
        kl_99=score.kl_99,
        kl_999=score.kl_999,
        rms_dp=score.rms_dp,
        retained=score.retained,
        token_agreement=score.token_agreement,
        router_agreement=score.router_agreement,
    )


def _of_quality(quality: Mapping[str, Quality]) -> list[ModelResult]:
    return [
        ModelResult(
            model=name,
            kl=one.kl,
            predicted_kl=one.predicted_kl,
            perplexity=(one.perplexity_original, one.perplexity_release),
            accuracy=_pair(one.accuracy_original, one.accuracy_release),
            kl_99=one.kl_99,
            kl_999=one.kl_999,
            rms_dp=one.rms_dp,
            retained=one.retained,
            token_agreement=one.same_top,
            router_agreement=one.routers or (),
        )
        for name, one in sorted(quality.items())
    ]


def _pair(before: float | None, after: float | None) -> tuple[float, float] | None:
    return None if before is None or after is None else (before, after)
