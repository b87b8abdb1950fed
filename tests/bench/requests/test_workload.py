"""Jobs are a pure function of their settings, and have the shape that was asked for."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.bench.requests.workload import (
    Asked,
    Lengths,
    RequestArrival,
    make_jobs,
    parse_trace,
    poisson,
    popularity,
)
from serve_app.errors import ConfigError

SHORT = Lengths(1, 9)
HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"
TRACE = [
    HEAD,
    "2023-11-16 18:15:46.6805900,374,44",
    "2023-11-16 18:15:50.6805900,396,109",
    "2023-11-16 18:15:51.6805900,0,0",
]

seeds = st.integers(0, 2**32)
arrivals = st.lists(
    st.builds(
        RequestArrival,
        at_s=st.floats(0, 100),
        prompt_tokens=st.integers(1, 3000),
        answer_tokens=st.integers(1, 3000),
    ),
    max_size=20,
)
asked = st.lists(
    st.builds(Asked, name=st.text(max_size=3), context=st.integers(2, 500), vocabulary=st.just(50)),
    min_size=1,
    max_size=5,
    unique_by=lambda model: model.name,
)
repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=60)


@repeatable
@given(seed=seeds, rate=st.floats(0.1, 50), duration=st.floats(0.1, 20))
def test_poisson_arrivals_are_in_order_and_end_with_the_duration(
    seed: int, rate: float, duration: float
) -> None:
    found = poisson(rate, prompt=SHORT, answer=SHORT, seed=seed, duration_s=duration)
    times = [arrival.at_s for arrival in found]
    assert times == sorted(times)
    assert all(0 < at < duration for at in times)
    assert all(1 <= a.prompt_tokens <= 9 and 1 <= a.answer_tokens <= 9 for a in found)
    assert found == poisson(rate, prompt=SHORT, answer=SHORT, seed=seed, duration_s=duration)


@repeatable
@given(seed=seeds, rate=st.floats(0.1, 50), num=st.integers(0, 30))
def test_another_rate_is_another_scale_of_time(seed: int, rate: float, num: int) -> None:
    slow = poisson(rate, prompt=SHORT, answer=SHORT, seed=seed, num=num)
    fast = poisson(2 * rate, prompt=SHORT, answer=SHORT, seed=seed, num=num)
    assert len(slow) == num
    assert [a.at_s for a in fast] == [a.at_s / 2 for a in slow]
    assert [a.prompt_tokens for a in fast] == [a.prompt_tokens for a in slow]


def test_as_many_requests_come_as_the_rate_says() -> None:
    found = poisson(20.0, prompt=SHORT, answer=SHORT, seed=0, duration_s=500.0)
    assert len(found) == pytest.approx(10_000, rel=0.03)
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)  # as of an exponential distribution


@repeatable
@given(num=st.integers(1, 20), skew=st.floats(0, 3))
def test_shares_fall_by_rank_and_sum_to_one(num: int, skew: float) -> None:
    shares = popularity(num, skew)
    assert sum(shares) == pytest.approx(1.0)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] / shares[0] == pytest.approx(num**-skew)


def test_models_are_asked_as_often_as_they_are_popular() -> None:
    models = [Asked(name, 99, 99) for name in ("a", "b", "c")]
    found = poisson(1.0, prompt=SHORT, answer=SHORT, seed=1, num=12_000)
    jobs = make_jobs(found, models, skew=1.0, seed=3).jobs
    for model, share in zip(models, popularity(3, 1.0), strict=True):
        own = sum(job.model == model.name for job in jobs)
        assert own / len(jobs) == pytest.approx(share, abs=0.02)


@repeatable
@given(found=arrivals, models=asked, skew=st.floats(0, 2), seed=seeds)
def test_every_arrival_is_a_job_that_fits_its_model(
    found: list[RequestArrival], models: list[Asked], skew: float, seed: int
) -> None:
    made = make_jobs(found, models, skew=skew, seed=seed)
    assert [job.at_s for job in made.jobs] == [arrival.at_s for arrival in found]
    contexts = {model.name: model.context for model in models}
    num_cut = 0
    for job, arrival in zip(made.jobs, found, strict=True):
        assert len(job.prompt) + job.max_tokens <= contexts[job.model]
        assert 1 <= len(job.prompt) <= arrival.prompt_tokens
        assert 1 <= job.max_tokens <= arrival.answer_tokens
        assert all(3 <= token < 50 for token in job.prompt)
        is_whole = (len(job.prompt), job.max_tokens) == (
            arrival.prompt_tokens,
            arrival.answer_tokens,
        )
        num_cut += not is_whole
    assert made.num_cut == num_cut
    assert made == make_jobs(found, models, skew=skew, seed=seed)


def test_a_prompt_is_cut_before_the_answer_and_keeps_half_of_the_context() -> None:
    (model,) = [Asked("m", 100, 50)]
    made = make_jobs(
        [RequestArrival(0, 300, 20), RequestArrival(0, 300, 400), RequestArrival(0, 80, 20)],
        [model],
    )
    assert [(len(job.prompt), job.max_tokens) for job in made.jobs] == [
        (80, 20),
        (50, 50),
        (80, 20),
    ]
    assert made.num_cut == 2


def test_a_trace_is_counted_from_its_first_row() -> None:
    found = parse_trace(TRACE)
    assert found == [
        RequestArrival(0.0, 374, 44),
        RequestArrival(4.0, 396, 109),
        RequestArrival(5.0, 1, 1),
    ]
    assert [a.at_s for a in parse_trace(TRACE, speed=2.0)] == [0.0, 2.0, 2.5]
    assert parse_trace(TRACE, duration_s=5.0) == found[:2]
    assert parse_trace(TRACE, num=1) == found[:1]
    assert parse_trace([TRACE[0], *reversed(TRACE[1:])]) == found


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["at,ContextTokens,GeneratedTokens"], "TIMESTAMP"),
        ([], "TIMESTAMP"),
        ([HEAD], "no rows"),
        ([*TRACE, "yesterday,3,4"], "line 5"),
        ([*TRACE, "2023-11-16 18:15:51,3"], "line 5"),
        ([*TRACE, "2023-11-16 18:15:51,three,4"], "line 5"),
    ],
)
def test_what_is_no_trace_is_refused_by_line(lines: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_trace(lines)
