"""Unmerged releases answer as each model's own `generate()` does."""

import copy
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch

from serve_app.engine.device.cores import on_cores
from serve_app.engine.memory import plan_memory
from serve_app.engine.request import Request
from tests.engine.running import (
    GREEDY,
    ON_CPU,
    SMALL,
    answer,
    assert_golden,
    engine_of,
    greedy_requests,
    prompts,
)
from tests.support.checkpoints import ARCHITECTURES, tiny_model
from tests.support.sources import MemorySource

THETA = 10000.0


def models_of(architecture: str, count: int = 3, **overrides: Any) -> dict[str, Any]:
    """Models that differ in weights, vocabulary and rope base."""
    return {
        f"m{seed}": tiny_model(
            architecture,
            seed,
            **{
                "vocab_size": 320 + seed,
                "rope_parameters": {"rope_type": "default", "rope_theta": THETA * seed},
                **overrides,
            },
        )
        for seed in range(1, count + 1)
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mixed_models_answer_as_by_themselves_with_few_places_and_pages(
    architecture: str,
) -> None:
    models = models_of(architecture)
    source = MemorySource("r1", models)
    least = plan_memory(source, replace(SMALL, kv_tokens=64))
    two_places = least.total_bytes - least.place_bytes
    engine = engine_of(source, kv_tokens=64, device_memory=two_places)
    assert engine.memory.num_places == 2

    requests = greedy_requests(models, [5, 30, 12], max_tokens=14)
    answers = answer(engine, requests)

    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.backbone_evictions > 0
    assert stats.kv_blocks_used == 0
    assert stats.allocated_bytes == engine.memory.allocated_bytes <= two_places
    assert_golden(models, requests, answers)
    engine.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_a_prompt_are_the_models_own(architecture: str) -> None:
    models = models_of(architecture)
    engine = engine_of(MemorySource("r1", models))
    requests = [
        Request(f"{name}", "r1", name, prompt, 1, GREEDY, prompt_logprobs=3)
        for name, prompt in zip(models, prompts([9, 21, 14]), strict=True)
    ]
    answers = answer(engine, requests)
    for request in requests:
        with torch.no_grad():
            logits = models[request.model](torch.tensor([request.prompt])).logits[0]
        expected = torch.log_softmax(logits, dim=-1)
        found = answers[request.id].prompt_logprobs
        assert found is not None
        assert found[0] is None
        for position, logprob in enumerate(found[1:]):
            assert logprob is not None
            assert logprob.token == request.prompt[position + 1]
            for token, value in [(logprob.token, logprob.logprob), *logprob.top]:
                assert abs(expected[position, token].item() - value) < 1e-4
    engine.close()


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "rope_theta": THETA, "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": THETA, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": THETA,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": THETA,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": THETA,
        "factor": 4.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 32,
    },
}


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_sequence_sees_its_own_length_and_its_models_own_rope(rope: str) -> None:
    length = 32 if rope == "dynamic" else 128
    models = {
        "plain": tiny_model("mixtral", 1, head_dim=8),
        rope: tiny_model(
            "mixtral",
            2,
            head_dim=8,
            max_position_embeddings=length,
            rope_parameters=ROPES[rope],
        ),
    }
    engine = engine_of(MemorySource("r1", models), kv_tokens=128)
    requests = greedy_requests(models, [5, 20, 40], max_tokens=25)
    answers = answer(engine, requests)
    assert engine.stats().num_preemptions > 0
    assert_golden(models, requests, answers)
    engine.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_phi_models_compute_everything_anew_where_long_factors_take_over() -> None:
    rope = {**ROPES["longrope"], "short_mscale": 1.1, "long_mscale": 1.3}
    models = {
        "plain": tiny_model("phimoe", 1),
        "long": tiny_model("phimoe", 2, rope_parameters=rope),
    }
    engine = engine_of(MemorySource("r1", models), kv_tokens=160)
    requests = greedy_requests(models, [5, 20, 28, 40], max_tokens=30)
    answers = answer(engine, requests)
    assert engine.stats().num_preemptions > 0
    assert_golden(models, requests, answers)
    engine.close()


def test_a_models_rope_may_change_its_attention_scale() -> None:
    def rope(factor: float) -> dict[str, Any]:
        return {
            "rope_type": "yarn",
            "rope_theta": THETA,
            "factor": factor,
            "original_max_position_embeddings": int(256 / factor),
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }

    models = {
        "one": tiny_model("deepseek_v3", 1, rope_parameters=rope(2.0)),
        "two": tiny_model("deepseek_v3", 2, rope_parameters=rope(8.0)),
        "plain": tiny_model("deepseek_v3", 3),
    }
    engine = engine_of(MemorySource("r1", models))
    requests = greedy_requests(models, [7, 20], max_tokens=10)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()


SLIDING: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "phimoe": {},
    "qwen2_moe": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3_moe": {"use_sliding_window": True},
}


@pytest.mark.parametrize("architecture", SLIDING)
def test_sliding_windows_are_kept(architecture: str) -> None:
    fields = {"sliding_window": 9, **SLIDING[architecture]}
    models = {f"m{seed}": tiny_model(architecture, seed, **fields) for seed in (1, 2)}
    engine = engine_of(MemorySource("r1", models))
    requests = greedy_requests(models, [5, 30], max_tokens=20)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bfloat16_the_engine_errs_no_more_than_the_model_itself(architecture: str) -> None:
    """Rounding differs with the order of work; the typical error to float32 must not.

    The median, because a rounding that changes which experts a token takes makes a few large ones.
    """
    models = models_of(architecture, count=2)
    rounded = {name: copy.deepcopy(m).to(torch.bfloat16) for name, m in models.items()}
    exact = {name: copy.deepcopy(model).float() for name, model in rounded.items()}
    engine = engine_of(MemorySource("r1", rounded, dtype="bfloat16"), config=ON_CPU)
    assert engine.memory.dtype == "bfloat16"
    requests = [
        Request(f"{name}-{seed}", "r1", name, prompt, 0, GREEDY, prompt_logprobs=0)
        for seed in range(3)
        for name, prompt in zip(rounded, prompts([60, 60], seed=seed), strict=True)
    ]
    answers = answer(engine, requests)
    errors, own_errors = [], []
    for request in requests:
        ids = torch.tensor([request.prompt])
        found = answers[request.id].prompt_logprobs
        assert found is not None
        with torch.no_grad():
            own = torch.log_softmax(rounded[request.model](ids).logits[0].float(), dim=-1)
            wanted = torch.log_softmax(exact[request.model](ids).logits[0], dim=-1)
        for position, logprob in enumerate(found[1:]):
            assert logprob is not None
            truth = wanted[position, logprob.token].item()
            errors.append(abs(logprob.logprob - truth))
            own_errors.append(abs(own[position, logprob.token].item() - truth))
    assert statistics.median(errors) < 1.5 * statistics.median(own_errors)
    engine.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_engine_on_several_cores_answers_as_on_one(dtype: torch.dtype) -> None:
    models = {name: model.to(dtype) for name, model in models_of("mixtral").items()}
    source = MemorySource("r1", models, dtype=str(dtype).removeprefix("torch."))
    requests = greedy_requests(models, [5, 17, 30], max_tokens=12)
    found = []
    for num in (1, 3):
        with on_cores(num):
            engine = engine_of(source)
            found.append(answer(engine, requests))
            engine.close()
    by_one, by_three = found
    for request in requests:
        assert by_three[request.id].tokens == by_one[request.id].tokens


def test_two_experts_of_a_model_in_one_slot_are_as_two_equal_experts() -> None:
    model = tiny_model("mixtral", 1)
    with torch.no_grad():
        for layer in model.model.layers:
            for parameter in layer.mlp.experts.parameters():
                parameter[2] = parameter[0]
    source = MemorySource("r1", {"m1": model})
    assert all(len(layer.slots) == 3 for layer in source.layers)
    engine = engine_of(source)
    requests = greedy_requests(["m1"], [6, 11], max_tokens=10)
    assert_golden({"m1": model}, requests, answer(engine, requests))
    engine.close()


def test_a_module_that_reads_the_weights_of_its_parts_is_run_as_a_whole() -> None:
    fields = {"intermediate_size": 24, "num_experts": 4, "moe_topk": 2, "head_dim": 8}
    models = {f"m{seed}": tiny_model("hunyuan_v1_moe", seed, **fields) for seed in (1, 2)}
    engine = engine_of(MemorySource("r1", models))
    requests = greedy_requests(models, [5, 17], max_tokens=8)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()


def test_a_rotary_module_may_be_asked_for_its_config() -> None:
    fields = {"intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2}
    models = {f"m{seed}": tiny_model("granitemoe_swa", seed, **fields) for seed in (1, 2)}
    engine = engine_of(MemorySource("r1", models))
    requests = greedy_requests(models, [5, 17], max_tokens=8)
    assert_golden(models, requests, answer(engine, requests))
    engine.close()
