"""What the bars that compare ways of serving are values of; the arms are not opened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from serve_app.bench.arms.answering import ArmResult
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import ArmSpec
from serve_app.bench.arms.process import Answered
from serve_app.bench.bars import compared
from serve_app.bench.requests.open_loop import ClientLoad, Run
from serve_app.bench.requests.outcomes import Outcome
from serve_app.bench.requests.workload import TimedJob
from serve_app.errors import EngineError

KEPT_UP = ClientLoad({"p99": 0.0}, 0.0)
SECONDS = {"pool": 2.0, "isolated": 8.0, "single": 3.0, "transformers": 6.0}


def outcomes(name: str, jobs: Sequence[TimedJob], lost: str = "") -> list[Outcome]:
    """As if every job took as long as the arm takes for one."""
    return [
        Outcome(
            job=job,
            submitted_s=job.at_s,
            first_s=job.at_s,
            finished_s=job.at_s + SECONDS[name],
            num_tokens=job.max_tokens,
            error="gone" if name == lost else None,
        )
        for job in jobs
    ]


@pytest.fixture
def subject() -> compared.Subject:
    return compared.bars_subject()


def test_pool_is_held_against_isolated_at_a_share_of_what_it_can_take(
    subject: compared.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[TimedJob]] = []
    lost = ""

    def compare(names: Sequence[str], _: Ground, jobs: Sequence[TimedJob], **__: object) -> object:
        asked.append(jobs)
        return [ArmResult(name, 1, outcomes(name, jobs, lost), KEPT_UP, {}) for name in names]

    monkeypatch.setattr(compared, "capacity", lambda *_, **__: 10.0)
    monkeypatch.setattr(compared, "compare", compare)
    found = compared.pool_over_isolated_turnaround(subject)
    assert found.value == pytest.approx(0.25)
    assert found.facts["rate"] == pytest.approx(7.0)
    (jobs,) = asked
    assert jobs[-1].at_s > 55.0
    assert len(jobs) == pytest.approx(420, rel=0.2)
    assert {job.model for job in jobs} == {"m0", "m1", "m2", "m3"}
    assert {(len(job.prompt), job.max_tokens) for job in jobs} == {(64, 64)}
    lost = "isolated"
    with pytest.raises(EngineError, match="isolated lost"):
        compared.pool_over_isolated_turnaround(subject)


def test_an_engine_is_held_against_transformers_with_requests_all_at_once(
    subject: compared.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[tuple[str, int]] = []

    @contextmanager
    def opened(spec: ArmSpec) -> Iterator[list[str]]:
        assert spec.processes[0].models == ("m0",)
        yield [spec.name]

    def answer_all(names: Sequence[str], jobs: Sequence[TimedJob], **_: object) -> list[Answered]:
        assert {job.at_s for job in jobs} == {0.0}
        rounds.append((names[0], len(jobs)))
        return [Answered(Run(outcomes(names[0], jobs), KEPT_UP), 1, {})]

    monkeypatch.setattr(compared, "opened", opened)
    monkeypatch.setattr(compared, "answer_all", answer_all)
    found = compared.engine_over_transformers(subject)
    assert found.value == pytest.approx(2.0)
    assert found.facts["single_tokens_per_s"] == pytest.approx(16 * 64 / 3.0)
    assert rounds == [("single", 16)] * 4 + [("transformers", 16)] * 4
