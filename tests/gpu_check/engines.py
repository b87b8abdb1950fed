"""Whole engines on random weights: captured steps against none, and memory against its plan."""

from dataclasses import replace
from typing import Any

import torch

from serve_app.bench.step.session import Session, running
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.bench.weights.shapes import SHAPES
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.memory import plan_memory
from tests.engine.running import answer, engine_of, greedy_requests
from tests.gpu_check.ground import Ground
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

LOGPROB = 2e-3
"""How far a captured step in float32 may be from the same step not captured."""
NOT_PLANNED = 64 << 20
"""Bytes on CUDA beyond the plan: what matrix libraries keep, and what torch rounds up."""
PARTS = {"dense": ("dense", ()), "consolidated": ("split-8-128", ("packed-2-128",))}


def graphs_against_none(ground: Ground) -> dict[str, Any]:
    """Greedy answers with captured steps, and without: the same tokens and probabilities."""
    ground.require_cuda()
    models = {f"m{seed}": tiny_model("mixtral", seed) for seed in (1, 2, 3)}
    requests = greedy_requests(models, [4, 17], max_tokens=24)
    said, kept = [], []
    for captures in (True, False):
        engine = engine_of(MemorySource("r1", models), device=ground.device, cuda_graphs=captures)
        said.append(answer(engine, requests))
        kept.append(engine.stats().captures_bytes)
        engine.close()
    assert kept[0] > 0, "no step was captured"
    assert kept[1] == 0, "steps were captured though they must not be"
    worst = 0.0
    for request in requests:
        captured, plain = (each[request.id] for each in said)
        assert captured.tokens == plain.tokens, f"{request.id}: other tokens with captures"
        for one, other in zip(captured.logprobs, plain.logprobs, strict=True):
            assert one is not None
            assert other is not None
            worst = max(worst, abs(one.logprob - other.logprob))
    assert worst < LOGPROB, f"log-probabilities differ by {worst:.3g}"
    return {"answers": len(requests), "largest difference": worst, "captures bytes": kept[0]}


def memory_against_plan(ground: Ground) -> dict[str, Any]:
    """What is allocated, as counted by the engine and, on CUDA, by torch."""
    found: dict[str, Any] = {}
    shape = SHAPES["mixtral-115m"].config(num_hidden_layers=2)
    for name, (parts, residuals) in PARTS.items():
        source = RandomRelease(shape, 2, parts=parts, residuals=residuals, device=ground.device)
        config = EngineConfig(device=ground.device, kv_tokens=2048, max_sequences=8)
        if ground.device == "cuda":
            config = replace(config, device_memory=torch.cuda.mem_get_info()[0])
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if ground.device == "cuda" else 0
        plan = plan_memory(source, config)
        with running(Engine.open(source, config), source) as engine:
            session = Session(engine, source, step_tokens=512)
            session.decode(["m0", "m1"] * 4, 40, 6)
            stats = engine.stats()
            for kind in ("pool", "backbones", "kv"):
                planned, held = (getattr(each, f"{kind}_bytes") for each in (plan, stats))
                assert planned == held, f"{name}: {kind}: {planned} planned, {held} allocated"
            kept = stats.attention_bytes + stats.captures_bytes
            assert plan.kept_bytes is None or kept <= plan.kept_bytes, f"{name}: {kept} bytes kept"
        found[f"{name} MB"] = f"{plan.allocated_bytes / 1e6:.1f}"
        if ground.device == "cuda":
            peak = torch.cuda.max_memory_allocated() - before
            most = plan.total_bytes + NOT_PLANNED
            assert peak <= most, f"{name}: at most {peak} bytes at once, {most} planned"
            found[f"{name} peak ÷ plan"] = peak / plan.total_bytes
    return found
