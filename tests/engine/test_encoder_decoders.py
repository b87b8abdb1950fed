"""Encoder–decoder models answer as each model's own `generate()` does."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from representation.encoder_decoder.sparse_blocks import SparseBlock, Within
from tests.engine.running import SMALL, answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import ENCODER_DECODERS, tiny_model
from tests.support.sources import MemorySource, as_served

WIDE = replace(SMALL, step_tokens=48)


def models_of(architecture: str, count: int = 3) -> dict[str, Any]:
    """Models that differ in weights and vocabulary."""
    return {
        f"m{seed}": tiny_model(architecture, seed, vocab_size=320 + seed)
        for seed in range(1, count + 1)
    }


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


def _counted(within: Within, counts: list[int], index: torch.Tensor) -> torch.Tensor:
    found = within(index)
    counts.append(int((~found).sum()))
    return found
