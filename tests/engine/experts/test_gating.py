"""Which gates compiled code takes for its own."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from serve_app.engine.device.laid import Gate
from serve_app.engine.experts.gating import gate_of
from tests.engine.experts.test_pool import NON_GATED
from tests.support.checkpoints import tiny_model
from tests.support.served import served_fields
from tests.support.sources import expert_paths

SILU = Gate(math.inf, 1.0, 0.0, by_turns=False)
GATES = {
    "mixtral": SILU,
    "qwen3_moe": SILU,
    "gpt_oss": Gate(7.0, 1.702, 1.0, by_turns=True),
    "minimax_m3_vl_text": Gate(7.0, 1.702, 1.0, by_turns=False),
}


def experts_of(architecture: str, **fields: Any) -> Any:
    model = tiny_model(architecture, 1, **fields)
    return model.get_submodule(expert_paths(model)[0])


@pytest.mark.parametrize("architecture", GATES)
def test_a_gate_is_known_by_what_it_computes(architecture: str) -> None:
    assert gate_of(experts_of(architecture, **served_fields(architecture))) == GATES[architecture]


def test_experts_without_a_gate_have_none() -> None:
    assert gate_of(experts_of("nemotron_h", **NON_GATED)) is None


def test_a_gate_that_computes_something_else_is_left_to_the_module() -> None:
    def apply(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return nn.functional.gelu(gate) * up

    assert gate_of(SimpleNamespace(has_gate=True, _apply_gate=apply)) is None
