import math

import pytest

from consolidation.errors import Refused
from consolidation.evaluation.data import Files
from consolidation.evaluation.gates import QualityLimits, breaches, check_limits
from consolidation.evaluation.measures import ModelScore
from consolidation.release import Quality
from consolidation.statistics.text import CalibrationFile


def score(model: str, **fields: float) -> ModelScore:
    values: dict[str, float | None] = {
        "kl": 0.0,
        "kl_99": 0.0,
        "kl_999": 0.0,
        "rms_dp": 0.0,
        "perplexity": None,
        "perplexity_original": None,
        "accuracy": None,
        "accuracy_original": None,
        **fields,
    }
    return ModelScore(model=model, token_agreement=1.0, router_agreement=(1.0,), tokens=1, **values)  # type: ignore[arg-type]


def quality(kl: float) -> Quality:
    return Quality(kl=kl, perplexity_original=3.0, perplexity_release=3.0, tokens=7)


def test_without_limits_nothing_is_above_them() -> None:
    assert breaches(QualityLimits(), {"a": quality(9.0)}, [score("a", kl=9.0)]) == []


def test_every_model_above_a_limit_is_named_with_its_value_and_the_limit() -> None:
    limits = QualityLimits(max_kl=0.01, max_accuracy_drop=0.01, max_perplexity_rise=0.01)
    calibrated = {"b": quality(0.02), "a": quality(0.01)}
    scores = [
        score("b", perplexity_original=100.0, perplexity=101.5),
        score("a", kl=0.03, accuracy_original=0.8, accuracy=0.75),
    ]
    assert breaches(limits, calibrated, scores) == [
        "model 'b' is 0.02 nats per token from its original on the calibration text, "
        "more than the 0.01 allowed",
        "model 'a' is 0.03 nats per token from its original on its own data, "
        "more than the 0.01 allowed",
        "model 'a' has accuracy 0.7500 on its task, its original 0.8000: "
        "a drop of 0.0500, more than the 0.01 allowed",
        "model 'b' has perplexity 101.5000 on its text, its original 100.0000: "
        "a rise of 1.500 %, more than the 1 % allowed",
    ]


def test_a_model_that_keeps_too_little_of_its_effect_is_named_with_what_it_keeps() -> None:
    limits = QualityLimits(min_retained=0.95)
    calibrated = {
        "light": quality(0.001).model_copy(update={"kl_base": 0.01}),
        "strong": quality(0.001).model_copy(update={"kl_base": 0.5}),
        "whole": quality(0.001),
    }
    scores = [score("light", kl=0.0005, kl_base=0.01), score("strong", kl=0.1, kl_base=0.5)]
    assert breaches(limits, calibrated, scores) == [
        "model 'light' keeps 90.00 % of its effect on the calibration text, "
        "less than the 95 % wanted",
        "model 'strong' keeps 80.00 % of its effect on its own data, less than the 95 % wanted",
    ]


def test_a_limit_on_what_is_kept_needs_a_base_and_a_share() -> None:
    nothing = Files({}, {})
    check_limits(QualityLimits(min_retained=0.9), nothing, has_base=True)
    with pytest.raises(Refused, match="needs the base"):
        check_limits(QualityLimits(min_retained=0.9), nothing, has_base=False)
    for wrong in (95.0, math.nan):
        with pytest.raises(Refused, match=f"{wrong}, which is not a number of at most 1"):
            check_limits(QualityLimits(min_retained=wrong), nothing, has_base=True)


def test_a_drop_of_exactly_the_limit_is_allowed_whatever_floats_make_of_it() -> None:
    assert 0.805 - 0.795 > 0.01
    found = score("a", accuracy_original=0.805, accuracy=0.795)
    assert breaches(QualityLimits(max_accuracy_drop=0.01), {}, [found]) == []


def test_what_becomes_better_is_above_no_limit() -> None:
    found = score("a", accuracy_original=0.5, accuracy=0.9, perplexity_original=9.0, perplexity=5.0)
    assert breaches(QualityLimits(max_accuracy_drop=0, max_perplexity_rise=0), {}, [found]) == []


def test_a_limit_of_nothing_takes_the_smallest_divergence() -> None:
    assert breaches(QualityLimits(max_kl=0.0), {"a": quality(0.0)}, []) == []
    assert len(breaches(QualityLimits(max_kl=0.0), {"a": quality(1e-12)}, [])) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_above_every_limit(value: float) -> None:
    limits = QualityLimits(max_kl=1e9, max_perplexity_rise=1e9)
    found = score("a", kl=value, perplexity_original=2.0, perplexity=value)
    assert len(breaches(limits, {}, [found])) == 2


def test_a_limit_needs_something_to_measure_it_with() -> None:
    file = CalibrationFile("name", "digest", ())
    task, text = Files({"a": file}, {}), Files({}, {"a": file})
    check_limits(QualityLimits(max_accuracy_drop=0.1), task, has_base=False)
    check_limits(QualityLimits(max_perplexity_rise=0.1), text, has_base=False)
    check_limits(QualityLimits(max_kl=0.1), Files({}, {}), has_base=False)
    with pytest.raises(Refused, match="accuracy drop needs a task"):
        check_limits(QualityLimits(max_accuracy_drop=0.1), text, has_base=False)
    with pytest.raises(Refused, match="perplexity rise needs a text"):
        check_limits(QualityLimits(max_perplexity_rise=0.1), task, has_base=False)
