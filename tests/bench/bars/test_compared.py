"""What the bars that compare ways of serving are values of; the arms are not opened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from serve_app.bench.arms.arm_catalogue import ArmSpec
from serve_app.bench.arms.process import Answered
from serve_app.bench.bars import compared
from serve_app.bench.requests.open_loop import ClientLoad, Run
from serve_app.bench.requests.outcomes import Outcome
from serve_app.bench.requests.workload import TimedJob
from serve_app.errors import EngineError

KEPT_UP = ClientLoad({"p99": 0.0}, 0.0)
SECONDS: dict[str, float | None] = {
    "pool": 2.0,
    "isolated": 8.0,
    "single": 3.0,
    "transformers": 6.0,
}
"""How long an arm takes for any job; None if it loses all."""


def outcomes(name: str, jobs: Sequence[TimedJob]) -> list[Outcome]:
    seconds = SECONDS[name]
    return [
        Outcome(
            job=job,
            submitted_s=job.at_s,
            first_s=job.at_s,
            finished_s=None if seconds is None else job.at_s + seconds,
            num_tokens=job.max_tokens,
        )
        for job in jobs
    ]


@pytest.fixture
def subject() -> compared.Subject:
    return compared.bars_subject()


Orders = list[tuple[str, Sequence[TimedJob]]]


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Orders:
    """Which arm got which jobs, by turns. Nothing is started."""
    found: Orders = []

    @contextmanager
    def opened(spec: ArmSpec) -> Iterator[list[str]]:
        yield [spec.name]

    def answer_all(names: Sequence[str], jobs: Sequence[TimedJob], **_: object) -> list[Answered]:
        found.append((names[0], jobs))
        return [Answered(Run(outcomes(names[0], jobs), KEPT_UP), 1, {})]

    monkeypatch.setattr(compared, "opened", opened)
    monkeypatch.setattr(compared, "answer_all", answer_all)
    return found


def test_pool_is_held_against_isolated_at_a_share_of_what_isolated_can_take(
    subject: compared.Subject, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    saturated: list[Sequence[str]] = []

    def sustained(names: Sequence[str], *_: object, **__: object) -> float:
        saturated.append(names)
        return 10.0

    monkeypatch.setattr(compared, "sustained", sustained)
    found = compared.pool_over_isolated_turnaround(subject, arrivals_s=60.0)
    assert saturated == [["isolated"]]
    assert found.value == pytest.approx(0.25)
    assert found.facts["rate"] == pytest.approx(6.0)
    assert [name for name, _ in orders] == ["isolated", "pool"] * 5
    runs = [jobs for _, jobs in orders[::2]]
    assert runs == [jobs for _, jobs in orders[1::2]], "both get the same requests"
    assert len({jobs[0].prompt for jobs in runs}) == 5, "each run has its own"
    for jobs in runs:
        assert jobs[-1].at_s > 55.0
        assert len(jobs) == pytest.approx(360, rel=0.2)
        assert {job.model for job in jobs} == {"m0", "m1", "m2", "m3"}
        assert {(len(job.prompt), job.max_tokens) for job in jobs} == {(64, 64)}


def test_a_comparison_in_which_a_request_is_lost_has_no_value(
    subject: compared.Subject, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "sustained", lambda *_, **__: 10.0)
    monkeypatch.setitem(SECONDS, "pool", None)
    with pytest.raises(EngineError, match="pool lost"):
        compared.pool_over_isolated_turnaround(subject)


def test_an_engine_is_held_against_transformers_with_requests_all_at_once(
    subject: compared.Subject, orders: Orders
) -> None:
    found = compared.engine_over_transformers(subject)
    assert found.value == pytest.approx(2.0)
    assert found.facts["single_tokens_per_s"] == pytest.approx(16 * 64 / 3.0)
    assert [(name, len(jobs)) for name, jobs in orders] == [
        *[("single", 16)] * 4,
        *[("transformers", 16)] * 4,
    ]
    assert {job.at_s for _, jobs in orders for job in jobs} == {0.0}
    assert {job.model for _, jobs in orders for job in jobs} == {"m0"}
