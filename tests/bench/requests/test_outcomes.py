"""Numbers on outcomes, against cases that were counted by hand."""

import pytest

from serve_app.bench.requests.outcomes import Outcome, jain, numbers, spread, summary
from serve_app.bench.requests.workload import TimedJob


def outcome(
    at_s: float,
    submitted_s: float,
    first_s: float | None,
    finished_s: float | None,
    num_tokens: int,
    *,
    model: str = "a",
    queued_s: float | None = None,
    error: str | None = None,
) -> Outcome:
    job = TimedJob(at_s, model, (5, 6, 7), num_tokens, 0)
    return Outcome(job, submitted_s, first_s, finished_s, num_tokens, queued_s, error=error)


ONE = outcome(1.0, 1.5, 2.0, 4.0, 5, queued_s=0.25)
OTHER = outcome(2.0, 2.0, 5.0, 6.0, 3, model="b", queued_s=1.0)
SINGLE = outcome(3.0, 3.0, 4.0, 4.0, 1, model="b")
LOST = outcome(0.5, 0.5, 2.0, None, 2, error="gone")


def test_waits_are_counted_from_the_arrival_however_late_a_job_was_sent() -> None:
    found = numbers([ONE])
    assert found["turnaround_s"]["mean"] == 3.0
    assert found["ttft_s"]["p50"] == 1.0
    assert found["queue_s"]["p99"] == 0.75
    assert found["tpot_s"]["mean"] == 0.5


def test_rates_are_over_the_time_from_first_arrival_to_last_token() -> None:
    found = numbers([ONE, OTHER, SINGLE])
    assert found["seconds"] == 5.0
    assert found["answer_tokens"] == 9
    assert found["prompt_tokens"] == 9
    assert found["answer_tokens_per_s"] == pytest.approx(1.8)
    assert found["requests_per_s"] == pytest.approx(0.6)
    assert found["lost"] == 0


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    assert numbers([SINGLE])["tpot_s"] is None
    assert numbers([OTHER, SINGLE])["tpot_s"]["mean"] == 0.5


def test_a_lost_job_counts_as_lost_and_nowhere_else() -> None:
    with_lost = numbers([ONE, LOST])
    assert with_lost["requests"] == 2
    assert with_lost["lost"] == 1
    assert with_lost["turnaround_s"] == numbers([ONE])["turnaround_s"]
    nothing = numbers([LOST])
    assert nothing["turnaround_s"] is None
    assert nothing["answer_tokens_per_s"] is None


def test_a_job_that_failed_late_is_lost_too() -> None:
    assert numbers([outcome(0, 0, 1, 2, 3, error="broke")])["lost"] == 1


def test_percentiles_are_interpolated() -> None:
    found = spread(float(value) for value in range(11))
    assert found == {"mean": 5.0, "p50": 5.0, "p90": 9.0, "p99": 9.9}
    assert spread([]) is None


def test_jains_index_is_one_for_equals_and_a_share_for_one_who_has_all() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([1.0, 2.0, 3.0]) == pytest.approx(36 / 42)
    assert jain([]) is None


def test_models_have_numbers_of_their_own_and_an_index_of_time_per_token() -> None:
    found = summary([ONE, OTHER, SINGLE, LOST])
    assert found["models"]["a"] == numbers([ONE, LOST])
    assert found["models"]["b"] == numbers([OTHER, SINGLE])
    assert found["all"]["lost"] == 1
    a, b = 3.0 / 5, (4.0 / 3 + 1.0) / 2
    assert found["jain"] == pytest.approx((a + b) ** 2 / (2 * (a * a + b * b)))


def test_a_model_whose_jobs_were_all_lost_is_left_out_of_the_index() -> None:
    gone = outcome(0, 0, None, None, 0, model="z", error="gone")
    assert summary([ONE, gone])["jain"] == pytest.approx(1.0)
