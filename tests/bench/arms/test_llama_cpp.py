"""What is noted of llama.cpp's answers, where it cannot serve, and that it serves our model."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from serve_app.bench.arms import llama_cpp
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import arm_spec, why_not_here
from serve_app.bench.arms.llama_cpp import kv_bytes_per_token, note_answer
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.requests.open_loop import Notes, drive
from serve_app.bench.requests.outcomes import Outcome
from serve_app.bench.requests.workload import Asked, Lengths, TimedJob, Workload
from serve_app.bench.weights.shapes import SHAPES
from serve_app.engine.config import EngineConfig
from tests.bench.tiny import tiny_config

MODELS = ("m0", "m1")
GROUND = Ground(
    RandomSpec(tiny_config(hidden_size=64, intermediate_size=64), len(MODELS), "bfloat16"),
    MODELS,
    EngineConfig(device="cpu", dtype="float32", kv_tokens=512, max_sequences=4),
)
JOB = TimedJob(0.0, "m0", (3, 4), 3, 0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: name)


def noted(answer: Mapping[str, Any]) -> Outcome:
    """Of a job sent at 10 s and answered at 14 s."""
    notes = Notes([JOB], start=10.0, clock=lambda: 10.0)
    notes.sent(0)
    note_answer(0, JOB, answer, notes, began=10.0, ended=14.0)
    (outcome,) = notes.outcomes("unfinished")
    return outcome


def test_its_own_times_say_when_the_first_token_came_and_how_long_a_job_waited() -> None:
    answer = {
        "choices": [{"text": " 7 9 300"}],
        "usage": {"completion_tokens": 3},
        "timings": {"prompt_ms": 500.0, "predicted_ms": 1000.0},
    }
    outcome = noted(answer)
    assert (outcome.first_s, outcome.finished_s) == (3.0, 4.0)
    assert outcome.queued_s == 2.5
    assert outcome.tokens == (7, 9, 300)
    assert outcome.num_tokens == 3
    assert not outcome.is_lost


def test_a_short_answer_and_a_refusal_are_lost() -> None:
    short = {
        "choices": [{"text": " 7"}],
        "usage": {"completion_tokens": 1},
        "timings": {"prompt_ms": 1.0, "predicted_ms": 1.0},
    }
    assert noted(short).error == "1 of 3 tokens came"
    refused = noted({"error": {"message": "too long"}}).error
    assert refused is not None
    assert "too long" in refused


@pytest.mark.parametrize("missing", ["gguf", "xllamacpp"])
def test_without_its_packages_the_line_says_how_to_install_them(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None if name == missing else name)
    why = why_not_here("llama.cpp-q8_0", GROUND)
    assert why == "needs gguf and xllamacpp: pip install 'expertpool[bench]'"
    assert why_not_here("pool", GROUND) is None


@pytest.mark.usefixtures("installed")
def test_other_families_and_devices_are_left_to_the_other_arms() -> None:
    assert why_not_here("llama.cpp-q4_0", GROUND) is None
    other = replace(GROUND, source=RandomSpec(SHAPES["olmoe-1b-7b"].config(1), 2, "bfloat16"))
    assert why_not_here("llama.cpp", other) == "only Mixtral is written as GGUF here, not olmoe"
    there = replace(GROUND, engine=replace(GROUND.engine, device="cuda"))
    assert why_not_here("llama.cpp", there) == "runs on the CPU only, and the other arms on cuda"


def test_keys_and_values_of_a_token_are_counted_over_all_layers() -> None:
    # Keys and values × layers × heads × columns × bytes of float16.
    assert kv_bytes_per_token(SHAPES["mixtral-115m"].config()) == 2 * 8 * 4 * 64 * 2


def test_servers_answer_as_the_pool_does() -> None:
    for package in llama_cpp.PACKAGES:
        pytest.importorskip(package, reason="needs pip install 'expertpool[bench]'")
    workload = Workload(Lengths(8, 20), Lengths(4, 4), skew=0.0, seed=0)
    jobs = workload.jobs(workload.backlog(12), [Asked(name, 128, 320) for name in MODELS]).jobs
    answers = []
    for name in ("pool", "llama.cpp"):
        (process,) = arm_spec(name, GROUND, (0,)).processes
        arm = process.open()
        run = drive(arm, jobs, start=time.monotonic(), drain_s=60.0)
        assert arm.device_bytes > 0
        arm.close()
        assert [outcome.error for outcome in run.outcomes if outcome.is_lost] == []
        answers.append([outcome.tokens for outcome in run.outcomes])
    # llama.cpp rounds activations to bfloat16, so a close call may end otherwise.
    pairs = list(zip(*answers, strict=True))
    assert sum(ours == theirs for ours, theirs in pairs) >= 10
