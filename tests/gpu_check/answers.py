"""Golden answers: what engines on the device say, and what each model says by itself on the CPU."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from serve_app.engine.config import EngineConfig
from serve_app.engine.request import Request
from tests.engine.running import (
    GREEDY,
    Answer,
    answer,
    assert_golden,
    engine_of,
    greedy_requests,
    prompts,
)
from tests.gpu_check.ground import Ground
from tests.support.checkpoints import tiny_model
from tests.support.mixes import Mix, MixedSource
from tests.support.sources import MemorySource

ARCHITECTURES = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")
SEEDS = (1, 2)
WIDE = {"hidden_size": 256, "intermediate_size": 384}
"""So that groups of 128 columns fit, which compiled products ask for."""
MIXES = {
    "dense": Mix("dense"),
    "packed-8": Mix("packed-8-128"),
    "packed-4": Mix("packed-4-128"),
    "packed-3": Mix("packed-3-128"),
    "split-8": Mix("split-8-128"),
    "4 + 1 bit": Mix("packed-4-128", ("packed-1-128",), "m1"),
    "split-8 + 2 bit": Mix("split-8-128", ("packed-2-128",), "m1"),
    "rank-8": Mix("dense", ("rank-8",), "m1"),
    "rank-4 + 1 bit": Mix("packed-4-128", ("rank-4", "packed-1-128"), "m1"),
}
"""Ways of storing every expert, by what they are called here."""
GENERATED = 5
TOLERANCE = 1e-3
"""Of a log-probability in float32: devices add up in another order."""
MOST_OVER_OWN = 1.5
"""The typical error in bfloat16, divided by that of the model's own code in bfloat16."""
FLOAT_PRODUCTS = EngineConfig(int8_activations=False)


def golden_in_float32(ground: Ground) -> dict[str, Any]:
    """Greedy answers of mixed steps: the same tokens as `generate()`, the same probabilities."""
    found = {}
    for architecture in ARCHITECTURES:
        models = {f"m{seed}": tiny_model(architecture, seed) for seed in SEEDS}
        engine = engine_of(MemorySource("r1", models), device=ground.device)
        requests = greedy_requests(models, [3, 20, 41], max_tokens=10)
        assert_golden(models, requests, answer(engine, requests), tolerance=TOLERANCE)
        engine.close()
        found[architecture] = f"{len(requests)} answers"
    return found


def golden_in_bfloat16(ground: Ground) -> dict[str, Any]:
    """Errors of log-probabilities against float32, relative to those of the model's own code."""
    found = {}
    for architecture in ARCHITECTURES:
        models = {f"m{s}": tiny_model(architecture, s).to(torch.bfloat16) for s in SEEDS}
        exact = {name: tiny_model(architecture, s) for name, s in zip(models, SEEDS, strict=True)}
        for name, model in exact.items():
            model.load_state_dict(models[name].state_dict())
        source = MemorySource("r1", models, dtype="bfloat16")
        found[architecture] = _over_own(architecture, source, exact, models, ground)
    return found


def formats_in_bfloat16(ground: Ground) -> dict[str, Any]:
    """The same with experts in each format, whatever form of product the device has for it."""
    models = {f"m{s}": tiny_model("mixtral", s, **WIDE).to(torch.bfloat16) for s in SEEDS}
    found = {}
    for name, mix in MIXES.items():
        source = MixedSource("r1", models, lambda *_, mix=mix: mix, dtype="bfloat16")
        exact = source.references(models)
        rounded = {n: m.to(torch.bfloat16) for n, m in source.references(models).items()}
        found[name] = _over_own(name, source, exact, rounded, ground)
    return found


def _over_own(
    what: str,
    source: MemorySource,
    exact: Mapping[str, Any],
    rounded: Mapping[str, Any],
    ground: Ground,
) -> float:
    """The typical error divided by the models' own. Raises: AssertionError if it is too large."""
    config = replace(FLOAT_PRODUCTS, device=ground.device)
    engine = engine_of(source, config=config)
    requests = [
        Request(f"{name}-{seed}", "r1", name, prompt, GENERATED, GREEDY, prompt_logprobs=0)
        for seed in range(3)
        for name, prompt in zip(exact, prompts([60, 60], seed=seed), strict=True)
    ]
    answers = answer(engine, requests)
    engine.close()
    found, own = _errors(requests, answers, exact, rounded)
    ratio = statistics.median(found) / statistics.median(own)
    assert ratio < MOST_OVER_OWN, f"{what}: {ratio:.2f} × the error of the model's own code"
    return ratio


@torch.no_grad()
def _errors(
    requests: Sequence[Request],
    answers: Mapping[str, Answer],
    exact: Mapping[str, Any],
    rounded: Mapping[str, Any],
) -> tuple[list[float], list[float]]:
    """Of every token of prompts and answers: the engine's errors, and those of the own code."""
    found, own = [], []
    for request in requests:
        got = answers[request.id]
        assert got.error is None, f"{request.id}: {got.error}"
        assert got.prompt_logprobs is not None
        ids = torch.tensor([[*request.prompt, *got.tokens]])
        wanted = torch.log_softmax(exact[request.model](ids).logits[0], dim=-1)
        plain = torch.log_softmax(rounded[request.model](ids).logits[0].float(), dim=-1)
        for position, logprob in enumerate([*got.prompt_logprobs[1:], *got.logprobs]):
            assert logprob is not None
            truth = wanted[position, logprob.token].item()
            found.append(abs(logprob.logprob - truth))
            own.append(abs(plain[position, logprob.token].item() - truth))
    return found, own
