"""`expertpool bench load` and `bench compare`: what they refuse, ask for and show."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.bench.arms import endpoint
from serve_app.bench.arms.answering import ArmResult
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import ARMS, ArmSpec
from serve_app.bench.compare import compare
from serve_app.bench.load import load, queue_waits
from serve_app.bench.load.queue_waits import Waits
from serve_app.bench.requests.open_loop import ClientLoad
from serve_app.bench.requests.outcomes import Outcome
from serve_app.bench.requests.workload import Asked, TimedJob
from serve_app.cli.main import run

SMALL = ["--layers", "1", "--models", "2"]
LOAD = ["bench", "load", *SMALL]
COMPARE = ["bench", "compare", *SMALL]


def answered(name: str, jobs: Sequence[TimedJob]) -> ArmResult:
    """As if every job had taken two seconds, but the first one, which is lost."""
    outcomes = [
        Outcome(
            job=job,
            submitted_s=job.at_s + 0.001,
            first_s=job.at_s + 1.0,
            finished_s=job.at_s + 2.0 if number else None,
            num_tokens=job.max_tokens,
            queued_s=0.5,
            error=None if number else "it was in the way",
        )
        for number, job in enumerate(jobs)
    ]
    return ArmResult(name, 1 << 20, outcomes, ClientLoad({"p99": 0.001}, 0.9), {"swaps": 3})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of arms, none of which was opened."""
    found: dict[str, Any] = {}

    def run_arm(
        spec: ArmSpec,
        jobs: Sequence[TimedJob],
        on_ready: Callable[[], None] = lambda: None,
        **_: object,
    ) -> ArmResult:
        on_ready()
        found.setdefault("specs", []).append(spec)
        found["jobs"] = jobs
        result = answered(spec.name, jobs)
        outcomes = found.get("outcomes")
        return replace(result, outcomes=outcomes(spec.name, jobs)) if outcomes else result

    def capacity(name: str, ground: Ground, *_: object, **__: object) -> float:
        found["ground"] = ground
        return 10.0

    monkeypatch.setattr(load, "run_arm", run_arm)
    monkeypatch.setattr(compare, "run_arm", run_arm)
    monkeypatch.setattr(compare, "capacity", capacity)
    monkeypatch.setattr(compare, "why_not_here", lambda *_: None)  # as if all were installed
    return found


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{second:02}.5,{second * 400 + 1},9\n" for second in range(12)
)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return str(file)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (LOAD, "give either --trace or --rate"),
        ([*LOAD, "--rate", "1", "--trace", "x.csv"], "give either --trace or --rate"),
        ([*LOAD, "--rate", "0"], "is not more than 0"),
        ([*LOAD, "--rate", "1", "--speed", "2"], "--speed"),
        ([*LOAD, "--trace", "nosuch.csv"], "nosuch.csv"),
        ([*LOAD, "--rate", "1", "--prompt-tokens", "0"], "--prompt-tokens"),
        ([*LOAD, "--rate", "1", "--answer-tokens", "9-3"], "9 is more than 3"),
        ([*LOAD, "--rate", "1", "--model", "m7"], "'m7'"),
        ([*LOAD, "--rate", "1", "--shape", "nosuch"], "nosuch"),
        ([*LOAD, "--rate", "1", "--url", "http://127.0.0.1:9"], "--layers"),
        (["bench", "load", "--rate", "1", "--url", "127.0.0.1:9"], "http://"),
        (["bench", "load", "--rate", "1", "--url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        ([*LOAD, "--rate", "0.001", "--duration", "1"], "no request arrives"),
        ([*COMPARE, "--arms", "pool,nosuch"], "nosuch"),
        ([*COMPARE, "--rate", "1", "--load", "0.5"], "give either --rate or --load"),
        ([*COMPARE, "--models", "8", "--sequences", "4"], "have no room for a request of 128"),
        ([*COMPARE, "--rate", "0.001", "--duration", "1"], "no request arrives"),
        ([*COMPARE, "--registry", "nosuch"], "--family"),
    ],
)
def test_bad_input_is_refused_by_name_before_anything_starts(
    arguments: list[str],
    named: str,
    asked: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(arguments) == 2
    assert named in capsys.readouterr().err
    assert "specs" not in asked


def test_load_puts_a_process_to_an_engine_and_says_what_became_of_it(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, page = tmp_path / "out.json", tmp_path / "out.html"
    options = ["--rate", "5", "--requests", "20", "--skew", "1", "--seed", "3"]
    assert run([*LOAD, *options, "--json", str(file), "--html", str(page)]) == 0
    jobs: Sequence[TimedJob] = asked["jobs"]
    assert len(jobs) == 20
    assert {len(job.prompt) for job in jobs} == {64}
    assert sum(job.model == "m0" for job in jobs) > sum(job.model == "m1" for job in jobs)
    (spec,) = asked["specs"]
    assert [process.models for process in spec.processes] == [("m0", "m1")]
    told = capsys.readouterr()
    assert "first token" in told.out
    assert "90.0% of a core" in told.out
    assert "lost: it was in the way" in told.err
    assert "warning: the client took 90% of a core" in told.err
    written = json.loads(file.read_text())
    assert written["kind"] == "load"
    assert written["lost"] == 1
    assert written["settings"]["rate"] == 5
    assert [row["model"] for row in written["rows"]] == ["m0", "m1", "all"]
    assert written["rows"][-1]["turnaround_s"]["mean"] == pytest.approx(2.0)
    assert len(written["requests"]) == 20
    assert "Under way" in page.read_text()


def test_load_of_an_endpoint_says_who_waited_in_its_queue(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks = iter([{"a": Waits(1.0, 1.0, {1.0: 1.0})}, {"a": Waits(4.0, 3.0, {1.0: 3.0})}])

    def result(name: str, jobs: Sequence[TimedJob]) -> list[Outcome]:
        return [replace(one, queued_s=None) for one in answered(name, jobs).outcomes]

    monkeypatch.setattr(endpoint, "asked_of", lambda *_: [Asked("a", 99, 99), Asked("b", 99, 99)])
    monkeypatch.setattr(queue_waits, "read", lambda url: next(looks))
    monkeypatch.setitem(asked, "outcomes", result)
    file = tmp_path / "out.json"
    there = ["--url", "http://127.0.0.1:9/v1", "--rate", "5", "--requests", "9"]
    assert run(["bench", "load", *there, "--json", str(file)]) == 0
    (spec,) = asked["specs"]
    assert spec.processes == (endpoint.HttpSpec("http://127.0.0.1:9", ("a", "b")),)
    a, b, every = json.loads(file.read_text())["rows"]
    assert a["queue_s"]["mean"] == pytest.approx(1.5)
    assert b["queue_s"] is None
    assert every["queue_s"] is None


def test_load_takes_arrivals_and_lengths_of_a_trace(
    trace: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "out.json"
    options = ["--trace", trace, "--speed", "4", "--duration", "2", "--model", "m1"]
    assert run([*LOAD, *options, "--json", str(file)]) == 0
    jobs: Sequence[TimedJob] = asked["jobs"]
    assert [job.at_s for job in jobs] == [second / 4 for second in range(8)]
    assert [len(job.prompt) for job in jobs] == [second * 400 + 1 for second in range(8)]
    assert {job.model for job in jobs} == {"m1"}
    assert json.loads(file.read_text())["num_cut"] == 0
    assert run([*LOAD, "--trace", trace, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["num_cut"] == 1  # 4401 tokens are more than 4096
    assert len(asked["jobs"][-1].prompt) == 4096 - 9


def test_compare_puts_the_same_jobs_through_every_arm(
    asked: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, page = tmp_path / "out.json", tmp_path / "out.html"
    options = ["--load", "0.5", "--duration", "4", "--json", str(file), "--html", str(page)]
    assert run([*COMPARE, *options]) == 0
    assert [spec.name for spec in asked["specs"]] == list(ARMS)
    assert asked["ground"].engine.kv_tokens == 32 * 128
    told = capsys.readouterr()
    assert "50% of the 10.00 that pool can sustain" in told.out
    assert "less than 60 s" in told.out
    assert "÷ isolated" in told.out
    assert "swap lost: it was in the way" in told.err
    written: Mapping[str, Any] = json.loads(file.read_text())
    assert written["rate"] == 5.0
    assert [arm["arm"] for arm in written["arms"]] == list(ARMS)
    assert written["ratios"]["single"]["pool"]["turnaround_s_mean"] == pytest.approx(1.0)
    assert "Turnaround, mean" in page.read_text()


def test_a_rate_that_is_given_is_not_measured(asked: dict[str, Any]) -> None:
    assert run([*COMPARE, "--arms", "separate,pool", "--rate", "4", "--duration", "5"]) == 0
    assert [spec.name for spec in asked["specs"]] == ["separate", "pool"]
    assert "ground" not in asked
