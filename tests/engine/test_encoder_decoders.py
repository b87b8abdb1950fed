"""Encoder–decoder models answer as each model's own `generate()` does."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from representation.encoder_decoder.sparse_blocks import SparseBlock, Within
from serve_app.engine.request import Sampling
from serve_app.errors import ConfigError, TooLong, Unsupported
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
from tests.engine.test_hybrids import models_of
from tests.support.checkpoints import ENCODER_DECODERS, tiny_model
from tests.support.sources import MemorySource, as_served

WIDE = replace(SMALL, step_tokens=48, kv_tokens=512)


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_mixed_models_answer_as_by_themselves_with_few_places_and_pages(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    models = models_of(architecture)
    engine = engine_of(
        MemorySource("r1", models), config=WIDE, kv_tokens=64, num_places=2, max_sequences=6
    )
    requests = greedy_requests(models, [5, 17, 30, 12], max_tokens=36)
    answers = answer(engine, requests)
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.backbone_evictions > 0
    assert stats.kv_blocks_used == stats.input_blocks_used == 0
    assert stats.allocated_bytes == engine.memory.allocated_bytes
    assert not caplog.records
    assert_golden(models, requests, answers)
    assert len({tuple(answers[request.id].tokens) for request in requests}) > len(models)
    engine.close()


def test_tokens_beyond_an_experts_capacity_are_passed_over_input_by_input() -> None:
    """Those of the inputs in the test above are; so the test would show if they were not."""
    model = as_served(tiny_model("switch_transformers", 1))
    counts: list[int] = []
    for block in model.encoder.modules():
        if isinstance(block, SparseBlock):
            block.within = partial(_counted, block.within, counts)
    (request,) = greedy_requests(["m1"], [30], max_tokens=1)
    model.encoder(torch.tensor([request.prompt]))
    assert len(counts) == 2
    assert min(counts) > 0


def test_log_probabilities_of_an_encoders_input_are_refused_with_nothing_changed() -> None:
    engine = engine_of(MemorySource("r1", models_of("switch_transformers", 1)), config=WIDE)
    (request,) = greedy_requests(["m1"], [5], max_tokens=3)
    with pytest.raises(Unsupported, match="model 'm1': its encoder reads the prompt"):
        engine.submit(replace(request, prompt_logprobs=1))
    assert not engine.has_work
    assert len(answer(engine, [request])[request.id].tokens) == 3
    engine.close()


def _counted(within: Within, counts: list[int], index: torch.Tensor) -> torch.Tensor:
    found = within(index)
    counts.append(int((~found).sum()))
    return found


def test_sampled_answers_are_the_same_alone_and_among_others() -> None:
    models = models_of("switch_transformers")
    sampling = Sampling(temperature=0.9, top_p=0.9, seed=7)
    requests = [
        replace(request, sampling=replace(sampling, seed=number))
        for number, request in enumerate(greedy_requests(models, [5, 17, 30], max_tokens=16))
    ]
    engine = engine_of(MemorySource("r1", models), config=WIDE, kv_tokens=96)
    together = answer(engine, requests)
    alone = {r.id: answer(engine, [replace(r, id=f"{r.id} alone")]) for r in requests}
    assert {name: found.tokens for name, found in together.items()} == {
        name: found[f"{name} alone"].tokens for name, found in alone.items()
    }
    greedy = answer(engine, [replace(r, id=f"{r.id} greedy", sampling=GREEDY) for r in requests])
    assert any(together[r.id].tokens != greedy[f"{r.id} greedy"].tokens for r in requests)
    engine.close()


@torch.no_grad()
def test_repetition_is_counted_in_answers_as_generate_counts_it_and_not_in_inputs() -> None:
    model = tiny_model("switch_transformers", 1)
    engine = engine_of(MemorySource("r1", {"m1": model}), config=WIDE)
    requests = greedy_requests(["m1"], [17, 30], max_tokens=14)
    sampling = replace(GREEDY, repetition_penalty=1.8)
    answers = answer(engine, [replace(request, sampling=sampling) for request in requests])
    for request in requests:
        wanted = model.generate(
            torch.tensor([request.prompt]),
            max_new_tokens=14,
            do_sample=False,
            eos_token_id=None,
            repetition_penalty=1.8,
        )
        assert answers[request.id].tokens == wanted[0, 1:].tolist()
    engine.close()


def test_the_longest_input_is_what_a_step_has_room_for_beside_the_answers_of_others() -> None:
    models = models_of("switch_transformers", 2)
    engine = engine_of(MemorySource("r1", models), config=WIDE, max_sequences=6)
    longest = engine.longest_prompt("r1", "m1")
    assert longest == WIDE.step_tokens - 6 - 1
    fitting, beyond = greedy_requests(["m1"], [longest, longest + 1], max_tokens=4)
    with pytest.raises(TooLong) as refused:
        engine.submit(beyond)
    assert refused.value.limit == longest
    others = greedy_requests(["m2"], [3, 4, 5, 6], max_tokens=30)
    assert_golden(models, [fitting, *others], answer(engine, [*others, fitting]))
    engine.close()


def test_in_bfloat16_routers_score_in_float32_as_stock_ones_do() -> None:
    """So a step of several models gives what each gives alone, to the bit."""
    models = {
        name: model.to(torch.bfloat16) for name, model in models_of("switch_transformers").items()
    }
    engine = engine_of(MemorySource("r1", models, "bfloat16"), config=WIDE)
    requests = greedy_requests(models, [5, 17, 30], max_tokens=12)
    together = answer(engine, requests)
    apart = [answer(engine, [replace(r, id=f"{r.id} alone")]) for r in requests]
    for request, alone in zip(requests, apart, strict=True):
        assert together[request.id].tokens == alone[f"{request.id} alone"].tokens
    stacks = engine.packed.stacks
    classifiers = [name for name in stacks.stacks() if name.endswith("classifier.weight")]
    assert {stacks[name].dtype for name in classifiers} == {torch.float32}
    engine.close()


def test_steps_planned_ahead_take_tokens_of_the_step_before_beside_inputs_that_begin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Inputs are in a plan's chunks, and not among the decoders' tokens of its step."""
    models = models_of("switch_transformers")
    engine = engine_of(MemorySource("r1", models), config=WIDE, plan_ahead=True)
    early, *late = greedy_requests(["m1", "m2", "m3"], [9, 1, 17], max_tokens=24)
    answers = answer(engine, [replace(early, id="warm", model="m1")])
    first = replace(early, model="m2")
    engine.submit(first)
    for _ in range(4):
        for event in engine.step():
            answers.setdefault(event.request, Answer()).take(event)
    for request in late:
        engine.submit(request)
    finish(engine, answers)
    assert not caplog.records
    assert_golden(models, [first, *late], answers)
    engine.close()


def test_inputs_without_a_token_and_steps_without_room_for_one_are_refused() -> None:
    model = tiny_model("switch_transformers", 1)
    source = MemorySource("r1", {"m1": model})
    engine = engine_of(source, config=WIDE)
    (request,) = greedy_requests(["m1"], [5], max_tokens=4)
    with pytest.raises(ValueError, match="the prompt is empty"):
        engine.submit(replace(request, prompt=()))
    assert not engine.has_work
    engine.close()
    with pytest.raises(ConfigError, match="step_tokens is 8 and max_sequences 7"):
        engine_of(source, config=WIDE, step_tokens=8, max_sequences=7)
