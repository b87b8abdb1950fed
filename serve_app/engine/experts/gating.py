"""What stands between an expert's linear layers: the module's own, and the gates of compiled code.

Knows no architecture by name: it compares what a module computes.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

from serve_app.engine.device.laid import Gate

NUM_TRIED = 64
"""Neurons that a gate is compared on, with numbers of both signs within and beyond limits."""
SLOPES = (1.0, 1.702)
"""Of SiLU, and of what GPT-OSS has."""


def first_matrix(experts: Any) -> str:
    """The name of the matrix before the activation."""
    return "gate_up_proj" if experts.has_gate else "up_proj"


def activated(experts: Any, x: torch.Tensor) -> torch.Tensor:
    """x: (n, 2I), or (n, I) without a gate  ->  (n, I)"""
    found: torch.Tensor = experts._apply_gate(x) if experts.has_gate else experts.act_fn(x)
    return found


def gate_of(experts: Any) -> Gate | None:
    """The gate that computes what the module computes; None if there is none."""
    if not experts.has_gate:
        return None
    generator = torch.Generator().manual_seed(0)
    x = 6 * torch.randn((4, 2 * NUM_TRIED), generator=generator)  # (4, 2N)
    wanted = activated(experts, x)  # (4, N)
    for gate in _gates(experts):
        if torch.allclose(gated(gate, x), wanted, rtol=1e-4, atol=1e-5):
            return gate
    return None


def gated(gate: Gate, x: torch.Tensor) -> torch.Tensor:
    """What compiled code computes, in torch. x: (n, 2N)  ->  (n, N)"""
    through, up = (x[:, ::2], x[:, 1::2]) if gate.by_turns else x.chunk(2, dim=-1)  # (n, N) each
    through, up = through.clamp(max=gate.limit), up.clamp(-gate.limit, gate.limit)
    return (up + gate.shift) * through * torch.sigmoid(gate.slope * through)


def _gates(experts: Any) -> Iterator[Gate]:
    """Those that it may be. Limits are numbers that the module has."""
    limits = {value for name, value in vars(experts).items() if name.endswith("limit")}
    for limit in (math.inf, *sorted(limits)):
        for slope in SLOPES:
            for shift in (0.0, 1.0):
                for by_turns in (False, True):
                    yield Gate(limit, slope, shift, by_turns)
