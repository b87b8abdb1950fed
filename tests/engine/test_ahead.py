"""A step that is launched while the one before it is under way changes no answer."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from serve_app.engine.engine import Engine
from serve_app.engine.memory import plan_memory
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.model.replacing import Sizes
from serve_app.engine.request import Request, Sampling
from serve_app.engine.run.runner import LaunchedStep, Runner, RunningRequest, StepResult
from serve_app.engine.states.state_store import StateStore
from serve_app.engine.step.step import StepView
from serve_app.errors import EngineError
from serve_app.scheduling.ledgers.blocks import BLOCKS
from serve_app.scheduling.plan import Chunk, StepPlan
from tests.engine.running import (
    GREEDY,
    SMALL,
    Answer,
    answer,
    assert_golden,
    engine_of,
    finish,
    greedy_requests,
    prompts,
)
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource


def models_of(*seeds: int) -> dict[str, Any]:
    return {f"m{seed}": tiny_model("mixtral", seed, vocab_size=320 + seed) for seed in seeds}


def ahead_of(models: dict[str, Any], **options: Any) -> Engine:
    return engine_of(MemorySource("r1", models), plan_ahead=True, **options)


@pytest.mark.parametrize("architecture", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_answers_are_the_models_own_with_few_places_and_pages(architecture: str) -> None:
    models = {
        f"m{seed}": tiny_model(architecture, seed, vocab_size=320 + seed) for seed in (1, 2, 3)
    }
    least = plan_memory(MemorySource("r1", models), replace(SMALL, kv_tokens=64))
    two_places = least.total_bytes - least.place_bytes
    engine = ahead_of(models, kv_tokens=64, device_memory=two_places)
    requests = greedy_requests(models, [5, 17, 30, 12], max_tokens=18)
    answers = answer(engine, requests)
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.backbone_evictions > 0
    assert stats.kv_blocks_used == 0
    assert_golden(models, requests, answers)
    engine.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_models_that_compute_everything_anew_do_so() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 32,
        "short_mscale": 1.1,
        "long_mscale": 1.3,
    }
    models = {
        "plain": tiny_model("phimoe", 1),
        "long": tiny_model("phimoe", 2, rope_parameters=rope),
    }
    engine = ahead_of(models)
    requests = greedy_requests(models, [5, 20], max_tokens=30)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()


def test_every_setting_of_sampling_gives_what_it_gives_without() -> None:
    settings = [
        Sampling(seed=1, temperature=1.3, top_p=0.9, logprobs=2),
        Sampling(temperature=0, repetition_penalty=1.6, logprobs=0),
        Sampling(seed=3, temperature=0.9, presence_penalty=1.5, top_k=40),
        Sampling(temperature=0, frequency_penalty=1.9, logit_bias=((9, 2.0), (7, -50.0))),
        Sampling(seed=5, min_p=0.05, repetition_penalty=0.8, logprobs=4),
    ]
    models = models_of(1, 2)
    requests = [
        Request(
            f"{name}-{at}",
            "r1",
            name,
            prompts([6 + 5 * at], seed=at)[0],
            20,
            sampling,
            stop_token_ids=frozenset(range(at * 40, at * 40 + 25)),
            min_tokens=at,
            prompt_logprobs=2 if at % 2 else None,
        )
        for at, sampling in enumerate(settings)
        for name in models
    ]
    found = []
    for ahead in (False, True):
        engine = engine_of(MemorySource("r1", models), plan_ahead=ahead)
        found.append(answer(engine, requests))
        engine.close()
    without, with_it = found
    assert {answer.finish for answer in without.values()} == {"stop", "length"}
    for name, expected in without.items():
        got = with_it[name]
        assert (got.tokens, got.finish) == (expected.tokens, expected.finish)
        assert_close(got.logprobs, expected.logprobs)
        assert_close(got.prompt_logprobs or (), expected.prompt_logprobs or ())


def assert_close(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.token == other.token
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [token for token, _ in one.top] == [token for token, _ in other.top]


def test_a_step_is_launched_before_the_one_before_it_is_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []
    forward, collect = PackedModel.forward, LaunchedStep.collect

    def logged_forward(*args: Any) -> Any:
        log.append("launch")
        return forward(*args)

    def logged_collect(step: LaunchedStep) -> StepResult:
        log.append("collect")
        return collect(step)

    monkeypatch.setattr(PackedModel, "forward", logged_forward)
    monkeypatch.setattr(LaunchedStep, "collect", logged_collect)
    engine = ahead_of(models_of(1))
    answers = answer(engine, [Request("a", "r1", "m1", prompts([5])[0], 4, GREEDY)])
    assert len(answers["a"].tokens) == 4
    assert log == ["launch", "launch", "collect", "launch", "collect", "launch", *["collect"] * 2]
    engine.close()


def test_an_id_may_be_used_again_while_its_last_steps_are_under_way() -> None:
    models = models_of(1, 2)
    engine = ahead_of(models)
    (first, second) = greedy_requests(models, [5], max_tokens=12)
    engine.submit(first)
    answers: dict[str, Answer] = {}
    finish(engine, answers, until=lambda: first.id in answers)
    assert len(engine._flights) == 1
    engine.abort(first.id)
    again = replace(second, id=first.id, prompt_logprobs=1)
    engine.submit(again)
    answers = finish(engine, {})
    assert_golden(models, [again], answers)
    assert (engine.has_work, engine.stats().kv_blocks_used) == (False, 0)
    engine.close()


@pytest.mark.parametrize("breaks", [(PackedModel, "forward"), (LaunchedStep, "collect")])
def test_a_step_that_breaks_ends_its_requests_and_no_others(
    monkeypatch: pytest.MonkeyPatch, breaks: tuple[type, str]
) -> None:
    models = models_of(1, 2)
    engine = ahead_of(models)
    answers: dict[str, Answer] = {}
    engine.submit(Request("broken", "r1", "m1", prompts([5])[0], 9, GREEDY))
    finish(engine, answers, until=lambda: "broken" in answers)
    assert len(engine._flights) == 1
    works = getattr(*breaks)
    monkeypatch.setattr(*breaks, lambda *_: 1 / 0)
    engine.submit(Request("also", "r1", "m2", prompts([5])[0], 9, GREEDY))
    finish(engine, answers, until=lambda: answers["broken"].error is not None)
    monkeypatch.setattr(*breaks, works)
    finish(engine, answers)
    assert isinstance(answers["broken"].error, EngineError)
    requests = greedy_requests(models, [5], max_tokens=5)
    assert_golden(models, requests, answer(engine, requests))
    assert engine.stats().kv_blocks_used == 0
    engine.close()


def test_launching_a_step_asks_the_device_for_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the meta device have no values, so whoever asked for one would fail."""

    class Packed:
        device = torch.device("meta")
        sizes = Sizes(num_places=2, shelves=(), num_blocks=8, block_size=4)
        attention_forms = ()
        has_encoder = False
        states = StateStore({}, 0, torch.device("meta"))

        def forward(self, view: StepView) -> torch.Tensor:
            return torch.empty((view.outputs.count, 50), device="meta")

    monkeypatch.setattr("serve_app.engine.run.runner.HostCopies", list)
    sampling = Sampling(top_p=0.9, repetition_penalty=1.2, logprobs=2)
    requests = [
        Request(name, "r1", "m1", (1, 2, 3), 4, sampling, prompt_logprobs=1) for name in "ab"
    ]
    running = [RunningRequest(asked, 0, asked.prompt, len(asked.prompt), 0) for asked in requests]
    runner = Runner(cast(PackedModel, Packed()), clock=lambda: 0.0)
    first = runner.launch(StepPlan(tuple(chunk(name, (1, 2, 3)) for name in "ab")), running)
    ahead = StepPlan((chunk("b", (0,), start=3),))
    second = runner.launch(ahead, running[1:], first)
    assert (first.tokens.shape, second.tokens.shape) == ((2,), (1,))
    assert second.tokens.device.type == "meta"


def chunk(sequence: str, tokens: tuple[int, ...], start: int = 0) -> Chunk:
    """One that samples; of one token that the step before samples, where it does not start."""
    return Chunk(
        sequence=sequence,
        model=("r1", "m1"),
        place=0,
        start=start,
        tokens=tokens,
        pending=start > 0,
        held={BLOCKS: (ord(sequence) - ord("a"),)},
        prompt_len=3,
        forward_len=3,
        samples=True,
        keep_prompt_logits=start == 0,
        num_generated=start // 3,
        by_length=False,
    )
