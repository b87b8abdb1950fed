"""Floors of steps, against sums done by hand."""

import copy

import pytest
import torch

from representation.formats import DENSE, format_of
from serve_app.bench.step.floor import FloorPlan, Span
from serve_app.bench.step.rates import Rates
from serve_app.bench.step.touched import ShelfUse
from serve_app.bench.weights.shapes import SHAPES
from serve_app.engine.experts.shelving import ShelfKey
from serve_app.errors import Unsupported
from tests.bench.tiny import tiny_config
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource, backbone_tensors

SLOTS = ShelfKey(residual=False, format=DENSE)
LOW_RANK = ShelfKey(residual=True, format=format_of("rank-2"))
SIGNS = ShelfKey(residual=True, format=format_of("packed-1-16"))

# The tiny family: 2 layers, hidden 32, 4 heads of 8, 2 of them for keys and values, 4 experts of
# 48, vocabulary 320; bfloat16.
EXPERT = 3 * 32 * 48
ATTENTION = 32 * 32 + 2 * 32 * 16 + 32 * 32
BACKBONE = 2 * (ATTENTION + 4 * 32 + 2 * 32) + 32
HEAD = 320 * 32
KV_TOKEN = 2 * 2 * 2 * 8
ROUTING = [{SLOTS: ShelfUse(3, 12)}, {SLOTS: ShelfUse(4, 12)}]


@pytest.fixture(scope="module")
def plan() -> FloorPlan:
    return FloorPlan(tiny_config(), torch.bfloat16)


def test_bytes_are_those_of_rows_backbones_keys_and_values_and_logits(plan: FloorPlan) -> None:
    traffic = plan.traffic(2, [Span(10, 1), Span(20, 5)], ROUTING)
    assert traffic.pool == (3 + 4) * EXPERT * 2
    assert traffic.backbones == 2 * (BACKBONE + HEAD) * 2 + 6 * 32 * 2
    assert traffic.kv == (10 + 1 + 20 + 5) * KV_TOKEN * 2
    assert traffic.logits == 2 * 2 * 320 * 2
    assert traffic.states == 0
    assert traffic.total == sum((traffic.pool, traffic.backbones, traffic.kv, traffic.logits))


def test_a_state_is_read_and_written_however_many_tokens_a_sequence_has() -> None:
    config = tiny_model("lfm2_moe", 1).config.to_dict()
    hybrid = FloorPlan(config, torch.bfloat16)
    state = 2 * 32 * 3 * 2  # two layers, of 32 channels with 3 taps, in bfloat16
    routing = [{SLOTS: ShelfUse(1, 1)}] * 3
    assert hybrid.traffic(1, [Span(10, 1), Span(20, 5)], routing).states == 2 * 2 * state


def test_floors_of_encoders_and_decoders_are_refused() -> None:
    config = tiny_model("switch_transformers", 1).config.to_dict()
    with pytest.raises(Unsupported, match="floors of steps are known for decoders alone"):
        FloorPlan(config, torch.bfloat16)


def test_what_backbones_have_in_common_is_moved_once(plan: FloorPlan) -> None:
    first = tiny_model("mixtral", 1)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for name, tensor in second.state_dict().items():
            if "mlp.gate." in name:
                tensor.add_(1)
    models = list(MemorySource("r", {"a": first, "b": second}).models.values())
    moved = [
        tensor.nbytes
        for name, tensor in backbone_tensors(first).items()
        if "mlp.gate." not in name and "embed_tokens" not in name
    ]
    floors = FloorPlan(first.config.to_dict(), torch.float32)
    assert floors.in_common(models) == sum(moved)
    assert floors.in_common(models[:1]) == 0
    spans = [Span(10, 1)]
    apart, together = plan.traffic(2, spans, ROUTING), plan.traffic(2, spans, ROUTING, 100)
    assert apart.total - together.total == 100


def test_operations_are_those_of_every_matrix_of_a_token(plan: FloorPlan) -> None:
    spans = [Span(10, 1), Span(20, 5)]
    linear = 6 * 2 * (ATTENTION + 4 * 32) * 2
    experts = 24 * 2 * EXPERT
    pairs = 11 + (21 + 22 + 23 + 24 + 25)
    seen = 2 * 2 * 4 * (8 + 8) * pairs
    assert plan.operations(spans, ROUTING) == linear + experts + seen + 2 * 2 * HEAD


def test_residuals_move_and_compute_beside_their_slots(plan: FloorPlan) -> None:
    slots = {SLOTS: ShelfUse(1, 2)}
    with_factors = [slots | {LOW_RANK: ShelfUse(2, 2)}, slots]
    with_signs = [slots | {SIGNS: ShelfUse(2, 2)}, slots]
    spans = [Span(0, 1)]
    bare = plan.traffic(1, spans, [slots, slots]).pool
    # gate_up is 96 × 32 and down 32 × 48: factors of rank 2, or a bit each and a scale for 16.
    assert plan.traffic(1, spans, with_factors).pool - bare == 2 * 2 * 2 * (96 + 32 + 32 + 48)
    bits, scales = (96 * 32 + 32 * 48) // 8, 96 * 2 + 32 * 3
    assert plan.traffic(1, spans, with_signs).pool - bare == 2 * (bits + 2 * scales)
    less = plan.operations(spans, [slots, slots])
    assert plan.operations(spans, with_factors) - less == 2 * 2 * 2 * (96 + 32 + 32 + 48)
    assert plan.operations(spans, with_signs) - less == 2 * 2 * EXPERT


def test_a_table_that_is_the_head_too_is_read_as_the_head() -> None:
    tied = FloorPlan(tiny_config(tie_word_embeddings=True), torch.bfloat16)
    traffic = tied.traffic(2, [Span(10, 1)], ROUTING)
    assert traffic.backbones == 2 * (BACKBONE + HEAD) * 2


def test_of_a_window_only_what_is_seen_moves() -> None:
    config = SHAPES["gpt-oss-20b"].config(
        2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=320
    )
    plan = FloorPlan(config, torch.bfloat16)  # a layer of a window of 128, and one without
    routing: list[dict[ShelfKey, ShelfUse]] = [{}, {}]
    width = 2 * (16 + 16)
    assert plan.traffic(1, [Span(1000, 1)], routing).kv == (128 + 1001) * width * 2
    assert plan.traffic(1, [Span(50, 1)], routing).kv == (51 + 51) * width * 2


def test_the_larger_of_moving_and_computing_is_the_floor(plan: FloorPlan) -> None:
    spans = [Span(10, 1)]
    slow_memory = plan.floor(1, spans, ROUTING, Rates(1e3, {"bfloat16": 1e12, "float32": 1e6}))
    slow_products = plan.floor(1, spans, ROUTING, Rates(1e12, {"bfloat16": 1e2, "float32": 1e3}))
    assert slow_memory.limit == "bytes"
    assert slow_memory.seconds == plan.traffic(1, spans, ROUTING).total / 1e3
    assert slow_products.limit == "operations"
    assert slow_products.seconds == plan.operations(spans, ROUTING) / 1e3
