"""Captured steps give what the same steps give that are not, whatever models are in them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.attention.flashinfer import FlashInfer
from serve_app.engine.attention.varlen import Varlen
from serve_app.engine.engine import Engine
from serve_app.engine.request import Request, Sampling
from serve_app.engine.run.captures import Capture
from tests.engine import paged_kernels
from tests.engine.recorded import Recorder
from tests.engine.running import (
    GREEDY,
    ON_CPU,
    answer,
    assert_golden,
    engine_of,
    finish,
    greedy_requests,
    prompts,
    stage,
)
from tests.support.checkpoints import ARCHITECTURES, tiny_model
from tests.support.mixes import MIXES, Mix, MixedSource, in_turn
from tests.support.sources import MemorySource

CPU = torch.device("cpu")
WIDE = replace(ON_CPU, step_tokens=256, max_sequences=16)
"""All prompts in one step, so that the others decode."""


@pytest.fixture(autouse=True)
def plain_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is no operation on tensors, so it would not be recorded."""
    monkeypatch.setattr("serve_app.engine.model.replacing.makers", lambda _: ())


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Records the steps of every engine that is made."""
    recorder = Recorder()
    monkeypatch.setattr("serve_app.engine.engine.graph_backend", lambda *_: recorder)
    return recorder


def models_of(architecture: str = "mixtral", count: int = 3, **overrides: Any) -> dict[str, Any]:
    """Models that differ in weights, vocabulary and rope base."""
    return {
        f"m{seed}": tiny_model(
            architecture,
            seed,
            **{
                "vocab_size": 320 + seed,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4 * seed},
                **overrides,
            },
        )
        for seed in range(1, count + 1)
    }


def opened(source: Any, **options: Any) -> Engine:
    return engine_of(source, config=WIDE, kv_tokens=1024, **options)


@pytest.mark.parametrize("plan_ahead", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_answers_as_its_models_by_themselves(
    architecture: str, plan_ahead: bool, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    models = models_of(architecture)
    engine = opened(MemorySource("r1", models), plan_ahead=plan_ahead)
    requests = greedy_requests(models, [5, 17], max_tokens=8)
    assert_golden(models, requests, answer(engine, requests))
    assert not caplog.records, "every capture gave what the step gave"
    assert recorder.num_replays > 4
    engine.close()


@pytest.mark.parametrize("architecture", ["qwen3_next", "granitemoehybrid"])
def test_captured_steps_go_on_from_each_sequences_own_state(
    architecture: str,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("serve_app.engine.model.packed.native", lambda: None)  # is not recorded
    models = {f"m{seed}": tiny_model(architecture, seed) for seed in (1, 2)}
    engine = opened(MemorySource("r1", models), plan_ahead=True)
    requests = greedy_requests(models, [5, 17, 9], max_tokens=8)
    caplog.clear()
    assert_golden(models, requests, answer(engine, requests))
    assert not caplog.records, "every capture gave what the step gave"
    assert recorder.num_replays > 4
    engine.close()


@pytest.mark.parametrize("fails", [True, False])
def test_states_are_those_of_the_step_where_a_capture_fails_or_differs(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.engine.model.packed.native", lambda: None)
    spoilt = Spoilt(fails=fails)
    monkeypatch.setattr("serve_app.engine.engine.graph_backend", lambda *_: spoilt)
    models = {f"m{seed}": tiny_model("qwen3_next", seed) for seed in (1, 2)}
    engine = opened(MemorySource("r1", models))
    requests = greedy_requests(models, [5, 9], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    assert spoilt.num_replays == (0 if fails else 1)
    engine.close()


@pytest.fixture(params=["varlen", "flashinfer"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", paged_kernels.varlen_attn)
    made: dict[str, Callable[[], Any]] = {
        "varlen": Varlen,
        "flashinfer": lambda: FlashInfer(paged_kernels.FlashInferWrapper, CPU),
    }
    offered = ((request.param, made[request.param]),)
    monkeypatch.setattr("serve_app.engine.model.replacing.makers", lambda _: offered)
    return str(request.param)


def test_paged_kernels_are_given_each_step_anew(
    kernel: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stand-ins of kernels read tensors on the host; so here a replay is a run."""
    recorder = Rerunner()
    monkeypatch.setattr("serve_app.engine.engine.graph_backend", lambda *_: recorder)
    models = models_of("gpt_oss")
    engine = opened(MemorySource("r1", models))
    assert [form.name for form in engine.packed.attention_forms] == [kernel]
    requests = greedy_requests(models, [5, 17], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    assert not caplog.records
    assert recorder.num_replays > 2
    engine.close()


class Rerunner(Recorder):
    """Runs what it captured again, as Python."""

    def capture(self, run: Callable[[], torch.Tensor]) -> Capture:
        return _Rerun(run, self)


class _Rerun:
    def __init__(self, run: Callable[[], torch.Tensor], owner: Recorder) -> None:
        self._run = run
        self._owner = owner
        self.logits = run()

    def replay(self) -> None:
        self._owner.num_replays += 1
        self.logits.copy_(self._run())


def test_a_step_is_captured_for_few_sizes_and_padded_to_them(recorder: Recorder) -> None:
    models = models_of()
    engine = opened(MemorySource("r1", models))
    lengths = [5, 7, 9, 11, 13, 6]  # of sequences that end one after another
    requests = [
        Request(f"{at}", "r1", f"m{at % 3 + 1}", prompts([length])[0], 3 + 2 * at, GREEDY)
        for at, length in enumerate(lengths)
    ]
    assert_golden(models, requests, answer(engine, requests))
    sizes = [len(recorded.logits) for recorded in recorder.recorded]
    assert set(sizes) <= {8, 4, 2, 1}
    assert len(sizes) <= 8, "two widths of tables for each"
    engine.close()


def test_any_mix_of_models_runs_from_the_captures_of_another(recorder: Recorder) -> None:
    models = models_of()
    engine = opened(MemorySource("r1", models))
    answer(engine, greedy_requests(["m1", "m2"], [5, 9], max_tokens=4))
    captured = len(recorder.recorded)
    for number, names in enumerate((["m3"] * 4, ["m1", "m3"] * 2, ["m2", "m1", "m3"])):
        requests = [
            Request(f"{number}-{at}", "r1", name, prompts([6 + at], seed=at)[0], 4, GREEDY)
            for at, name in enumerate(names)
        ]
        assert_golden(models, requests, answer(engine, requests))
    assert len(recorder.recorded) == captured
    engine.close()


def test_what_is_sampled_is_the_same_with_captures_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = models_of()
    requests = [
        Request(f"{at}", "r1", f"m{at % 3 + 1}", prompt, 12, Sampling(seed=at, top_p=0.9))
        for at, prompt in enumerate(prompts([4, 9, 12, 7]))
    ]
    plain = answer(opened(MemorySource("r1", models)), requests)
    monkeypatch.setattr("serve_app.engine.engine.graph_backend", lambda *_: Recorder())
    captured = answer(opened(MemorySource("r1", models)), requests)
    assert {i: a.tokens for i, a in plain.items()} == {i: a.tokens for i, a in captured.items()}


def test_captures_are_made_anew_where_anything_that_they_hold_has_moved(
    recorder: Recorder,
) -> None:
    """A release with parts in other formats, a longer vocabulary and more map rows comes, goes."""
    models = models_of(count=2)
    engine = opened(MemorySource("r1", models))
    first = greedy_requests(models, [5, 9], max_tokens=5)
    assert_golden(models, first, answer(engine, first))
    assert recorder.num_drops == 0

    others = models_of(count=2, vocab_size=350)
    mixes = [Mix("dense", ("rank-3",), "m1"), Mix("dense")]
    source = MixedSource("r2", others, lambda _, layer, expert: mixes[(layer + expert) % 2])
    stage(engine, source)
    second = [
        Request(f"second-{release}-{name}", release, name, prompts([8])[0], 5, GREEDY)
        for release in ("r1", "r2")
        for name in models
    ]
    answers = answer(engine, second)
    assert recorder.num_drops == 1
    assert_golden(models, second[:2], answers)
    assert_golden(source.references(others), second[2:], answers)

    gone: list[bool] = []
    engine.retire("r2", lambda: gone.append(True))
    finish(engine, {}, until=lambda: bool(gone))
    third = [Request(f"third-{r.id}", "r1", r.model, r.prompt, 5, GREEDY) for r in first]
    assert_golden(models, third, answer(engine, third))
    assert recorder.num_drops == 2
    engine.close()


def test_whatever_replaces_a_tensor_says_so() -> None:
    """Otherwise a captured step would go on reading the old one."""
    engine = opened(MemorySource("r1", models_of(count=2)))
    packed = engine.packed

    def addresses() -> list[int]:
        tensors = [packed.stacks[name] for name in packed.stacks.names()]
        for layer in packed.pool.values():
            for shelf in layer.shelves.values():
                tensors += [shelf.maps, *shelf.tensors.values()]
        for paged in packed.attentions.values():
            tensors += [paged.store.keys, paged.store.values]
        return [tensor.data_ptr() for tensor in tensors]

    def stages(source: Any) -> Callable[[], None]:
        return lambda: stage(engine, source)

    longer = models_of(count=1, vocab_size=350)
    actions: list[Callable[[], object]] = [
        stages(MixedSource("more rows", models_of(count=2), lambda *_: Mix("packed-4-16"))),
        stages(MemorySource("longer", longer)),
        lambda: answer(engine, greedy_requests(["m1"], [5], max_tokens=3)),
    ]
    moved = []
    for act in actions:
        before, revision = addresses(), packed.step.revision
        act()
        moved.append(addresses() != before)
        assert not moved[-1] or packed.step.revision > revision
        assert (packed.step.revision > revision) == (act is not actions[-1])
    assert moved == [True, True, False]
    engine.close()


class Spoilt(Recorder):
    """Captures that are wrong in one row, or that fail."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self._fails = fails

    def capture(self, run: Callable[[], torch.Tensor]) -> Capture:
        if self._fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        return super().capture(lambda: run() * torch.linspace(1, 2, 4)[:, None])


@pytest.mark.parametrize(
    ("fails", "words"), [(True, "cannot be captured: operation not permitted"), (False, "differs")]
)
def test_a_capture_that_fails_or_differs_is_named_and_not_used(
    fails: bool, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt = Spoilt(fails=fails)
    monkeypatch.setattr("serve_app.engine.engine.graph_backend", lambda *_: spoilt)
    models = models_of(count=2)
    engine = opened(MemorySource("r1", models))
    requests = greedy_requests(models, [5, 9], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    assert len(caplog.records) == 1, "said once"
    assert words in caplog.text
    assert spoilt.num_replays <= 1
    engine.close()


def test_models_that_look_at_the_length_of_sequences_run_as_they_are(recorder: Recorder) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    models = models_of(count=2, rope_parameters=rope, head_dim=8)
    engine = opened(MemorySource("r1", models))
    assert "looks at the length" in (engine.packed.bound_to_host or "")
    requests = greedy_requests(models, [5], max_tokens=4)
    assert_golden(models, requests, answer(engine, requests))
    assert not recorder.recorded
    engine.close()


def test_a_backbone_that_is_still_arriving_is_not_run_from_captures(recorder: Recorder) -> None:
    models = models_of(count=1)
    engine = opened(MemorySource("r1", models))
    arrivals = engine.packed.arrivals
    replays = []
    for number, arrives in enumerate((False, True, False)):
        if arrives:
            arrivals.expect(0).end()
        request = Request(f"{number}", "r1", "m1", prompts([9])[0], 4, GREEDY)
        assert_golden(models, [request], answer(engine, [request]))
        replays.append(recorder.num_replays)
        arrivals.settle(0)
    assert 0 < replays[0] == replays[1] < replays[2]
    engine.close()


def test_prompts_and_their_logits_run_as_they_are(recorder: Recorder) -> None:
    models = models_of(count=2)
    engine = opened(MemorySource("r1", models))
    requests = [Request(n, "r1", n, prompts([9])[0], 1, GREEDY, prompt_logprobs=1) for n in models]
    answer(engine, requests)
    assert not recorder.recorded
    engine.close()


@pytest.mark.parametrize("name", MIXES)
def test_experts_held_in_any_way_are_captured(
    name: str, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """One capture takes every shelf that a model has parts on, whichever models are in the step."""
    models = models_of()
    source = MixedSource("r1", models, in_turn(name))
    references = source.references(models)
    engine = opened(source)
    both = greedy_requests(["m1", "m2"], [5, 9], max_tokens=4)
    assert_golden(references, both, answer(engine, both))
    captured, replays = len(recorder.recorded), recorder.num_replays
    mixed = [
        Request(f"other-{at}", "r1", name, prompts([6 + at], seed=at)[0], 4, GREEDY)
        for at, name in enumerate(["m3", "m1", "m3", "m2"])
    ]
    assert_golden(references, mixed, answer(engine, mixed))
    assert len(recorder.recorded) == captured
    assert recorder.num_replays > replays
    assert not caplog.records, "every capture gave what the step gave"
    engine.close()
