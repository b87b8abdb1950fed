"""Models that take a prompt in one step alone answer as their own `generate()` does."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.memory import plan_memory
from serve_app.engine.run.runner import Runner
from serve_app.engine.states.by_sequence import BySequence
from serve_app.errors import TooLong
from serve_app.scheduling.plan import StepPlan
from tests.engine.running import (
    SMALL,
    answer,
    assert_golden,
    engine_of,
    greedy_requests,
)
from tests.engine.test_hybrids import models_of, recurrent
from tests.support.sources import MemorySource

STEP = 40
"""Tokens of a step, in which six sequences run."""


@pytest.mark.parametrize("plan_ahead", [False, True])
def test_mixed_models_answer_as_by_themselves_with_few_places_pages_and_rows(
    plan_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are whole, also after a preemption, and single tokens of a model run together."""
    plans: list[StepPlan] = []
    launch = Runner.launch

    def seen(self: Runner, plan: StepPlan, *rest: Any, **others: Any) -> Any:
        plans.append(plan)
        return launch(self, plan, *rest, **others)

    monkeypatch.setattr(Runner, "launch", seen)
    models = models_of("jamba")
    engine = engine_of(
        MemorySource("r1", models),
        kv_tokens=64,
        num_places=2,
        max_sequences=6,
        step_tokens=STEP,
        plan_ahead=plan_ahead,
    )
    kinds = {type(engine.packed._model.get_submodule(path)) for path in recurrent(engine)}
    assert kinds == {BySequence}
    requests = greedy_requests(models, [5, 17, 30, 12, 1], max_tokens=18)
    requests = [replace(each, chunk_tokens=4) for each in requests]
    answers = answer(engine, requests)
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.backbone_evictions > 0
    assert stats.kv_blocks_used == stats.state_rows_used == 0
    assert_golden(models, requests, answers)
    engine.close()
    chunks = [chunk for plan in plans for chunk in plan.chunks]
    assert all(len(c.tokens) == (1 if c.start else c.prompt_len) for c in chunks)
    singles = [[c.model for c in plan.chunks if c.start] for plan in plans]
    assert any(len(of_models) > len(set(of_models)) for of_models in singles)


def test_a_prompt_of_a_step_less_a_token_for_each_sequence_is_the_longest() -> None:
    models = models_of("jamba", 1)
    engine = engine_of(MemorySource("r1", models), max_sequences=6, step_tokens=STEP)
    assert engine.longest_prompt("r1", "m1") == 34 < engine.context_length("r1", "m1")
    request, *longer = greedy_requests(models, [34, 35], max_tokens=9)
    with pytest.raises(TooLong, match="a prompt of 35 tokens, which one step must compute") as e:
        engine.submit(longer[0])
    assert (e.value.limit, e.value.prompt_tokens) == (34, 35)
    assert_golden(models, [request], answer(engine, [request]))
    engine.close()


@torch.no_grad()
def test_log_probabilities_of_a_prompt_are_those_of_the_model() -> None:
    models = models_of("jamba", 2)
    engine = engine_of(MemorySource("r1", models), max_sequences=6, step_tokens=STEP)
    requests = [
        replace(each, prompt_logprobs=0) for each in greedy_requests(models, [17, 30], max_tokens=1)
    ]
    answers = answer(engine, requests)
    engine.close()
    for request in requests:
        tokens = torch.tensor([request.prompt])
        logits = models[request.model](tokens, use_cache=False).logits[0, :-1]
        wanted = torch.log_softmax(logits, dim=-1).gather(1, tokens[0, 1:, None])[:, 0]
        found = answers[request.id].prompt_logprobs
        assert found is not None
        got = torch.tensor([each.logprob for each in found[1:] if each is not None])
        assert torch.allclose(got, wanted, atol=1e-4)


def test_the_plan_has_room_for_what_a_prompt_does_to_the_state() -> None:
    """Transformers' scan makes several states of a layer for each token."""
    source = MemorySource("r1", models_of("jamba", 1))
    small, large = (
        plan_memory(source, replace(SMALL, step_tokens=num)).workspace_bytes for num in (40, 140)
    )
    of_layer = 64 * 8 * 4 + 64 * 4 * 4
    assert large - small > 100 * 4 * of_layer


def test_a_family_whose_mixers_take_parts_has_no_longest_prompt_but_its_context() -> None:
    engine = engine_of(MemorySource("r1", models_of("lfm2_moe", 1)))
    assert engine.longest_prompt("r1", "m1") == engine.context_length("r1", "m1")
    engine.close()
