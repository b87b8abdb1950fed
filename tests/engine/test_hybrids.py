"""Families with recurrent mixers answer as each model's own `generate()` does."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.engine import Engine
from serve_app.engine.memory import plan_memory
from serve_app.engine.model.packed import PackedModel
from serve_app.engine.request import Request
from serve_app.engine.states.packed_mixer import PackedMixer
from serve_app.errors import DoesNotFit
from tests.engine.running import (
    GREEDY,
    SMALL,
    Answer,
    answer,
    assert_golden,
    engine_of,
    finish,
    greedy_requests,
)
from tests.support.checkpoints import HYBRIDS, tiny_model
from tests.support.served import AT_ONCE, SERVED
from tests.support.sources import MemorySource

HYBRID = [name for name in HYBRIDS if name in SERVED and name not in AT_ONCE]


def models_of(architecture: str, count: int = 3) -> dict[str, Any]:
    """Models that differ in weights and vocabulary."""
    return {
        f"m{seed}": tiny_model(architecture, seed, vocab_size=320 + seed)
        for seed in range(1, count + 1)
    }


def recurrent(engine: Engine) -> list[str]:
    """The paths of its recurrent mixers."""
    return list(engine.packed.states.layers)


@pytest.mark.parametrize("architecture", HYBRID)
def test_mixed_models_answer_as_by_themselves_with_few_places_pages_and_rows(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And all mixers run packed."""
    models = models_of(architecture)
    source = MemorySource("r1", models)
    engine = engine_of(source, kv_tokens=64, num_places=2, max_sequences=6)
    assert engine.memory.state_rows == 6
    assert {PackedMixer} == {type(engine.packed._model.get_submodule(p)) for p in recurrent(engine)}
    assert not caplog.records
    requests = greedy_requests(models, [5, 17, 30, 12], max_tokens=18)
    answers = answer(engine, requests)
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.backbone_evictions > 0
    assert stats.kv_blocks_used == stats.state_rows_used == 0
    assert stats.allocated_bytes == engine.memory.allocated_bytes
    assert_golden(models, requests, answers)
    engine.close()


def test_a_request_that_breaks_its_steps_ends_alone_and_the_others_begin_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step that broke may have changed their state, so they compute everything once more."""
    models = models_of("lfm2_moe", 2)
    engine = engine_of(MemorySource("r1", models))
    poison, works = 7, PackedModel.forward

    def forward(self: PackedModel, view: Any) -> torch.Tensor:
        out = works(self, view)  # and with it, states have changed
        if bool((view.ids == poison).any()):
            raise RuntimeError("it broke")
        return out

    monkeypatch.setattr(PackedModel, "forward", forward)
    good = [r for r in greedy_requests(models, [5, 9], max_tokens=9) if poison not in r.prompt]
    answers = answer(engine, good[:1])
    bad = Request("bad", "r1", "m1", (5, poison, 6), 4, GREEDY)
    for request in good[1:]:
        engine.submit(request)
    for _ in range(2):  # until they are in the midst of their answers
        for event in engine.step():
            answers.setdefault(event.request, Answer()).take(event)
    engine.submit(bad)
    finish(engine, answers)
    assert "it broke" in str(answers["bad"].error)
    assert_golden(models, good, answers)
    assert engine.stats().state_rows_used == 0
    engine.close()


def test_a_long_answer_outlives_any_number_of_requests_that_break_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = models_of("lfm2_moe", 1)
    engine = engine_of(MemorySource("r1", models))
    poison, works = 7, PackedModel.forward

    def forward(self: PackedModel, view: Any) -> torch.Tensor:
        if bool((view.ids == poison).any()):
            raise RuntimeError("it broke")
        return works(self, view)

    monkeypatch.setattr(PackedModel, "forward", forward)
    (good,) = greedy_requests(models, [5], max_tokens=16)
    answers = answer(engine, [])
    engine.submit(good)
    mine = answers[good.id] = Answer()
    for number in range(4):
        least = len(mine.tokens)
        while len(mine.tokens) == least:
            assert mine.error is None
            for event in engine.step():
                answers.setdefault(event.request, Answer()).take(event)
        engine.submit(Request(f"bad{number}", "r1", "m1", (5, poison, 6), 4, GREEDY))
    finish(engine, answers)
    assert all("it broke" in str(answers[f"bad{number}"].error) for number in range(4))
    assert_golden(models, [good], answers)
    engine.close()


def test_steps_that_break_whoever_is_in_them_end_all_their_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = models_of("lfm2_moe", 2)
    engine = engine_of(MemorySource("r1", models))
    works = PackedModel.forward

    def forward(self: PackedModel, view: Any) -> torch.Tensor:
        if len(view.states.pieces) > 1:
            raise RuntimeError("too many")
        return works(self, view)

    monkeypatch.setattr(PackedModel, "forward", forward)
    answers = answer(engine, greedy_requests(models, [5, 9], max_tokens=4))
    assert all("too many" in str(each.error) for each in answers.values() if each.error)
    assert any(each.error for each in answers.values())
    engine.check()
    engine.close()


def test_what_sequences_of_another_family_have_is_no_state() -> None:
    engine = engine_of(MemorySource("r1", {"m": tiny_model("mixtral", 1)}))
    assert (engine.memory.state_rows, engine.memory.states_bytes) == (0, 0)
    assert engine.stats().state_rows == 0
    engine.close()


def test_without_a_limit_there_is_state_for_every_sequence_and_with_one_for_what_fits() -> None:
    """And answers wait for it."""
    models = models_of("qwen3_next", 2)
    source, small = MemorySource("r1", models), replace(SMALL, kv_tokens=256, num_places=1)
    whole = plan_memory(source, small)
    assert whole.state_rows == SMALL.max_sequences
    row = whole.states_bytes // (whole.state_rows + 1)
    least = whole.total_bytes - (whole.state_rows - 1) * row
    with pytest.raises(DoesNotFit, match=r"state of 1 sequences [\d,]+, workspace"):
        plan_memory(source, replace(small, device_memory=least - 1))
    engine = engine_of(source, config=replace(small, device_memory=least + 10 * row))
    assert engine.memory.state_rows == 3
    assert engine.memory.total_bytes <= least + 10 * row
    requests = greedy_requests(models, [5, 17, 9], max_tokens=6)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()
