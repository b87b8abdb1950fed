"""Computes a model's experts one by one and shows each product to a `Record`.

Registered with transformers' experts interface, and in use inside `experts_one_by_one` alone. What
is made of the products is in `statistics/moments.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

FUNCTION = "expertpool_statistics"


@contextmanager
def experts_one_by_one(model: Any) -> Iterator[None]:
    """Until the end of the block, experts modules show their products to their `statistics`."""
    before = model.config._experts_implementation
    model.set_experts_implementation(FUNCTION)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _experts_forward(
    experts: Any, hidden: torch.Tensor, *args: torch.Tensor, **kwargs: torch.Tensor
) -> torch.Tensor:
    """The function of the experts interface. hidden: (T, H)   index, weights: (T, K)  ->  (T, H)"""
    index, weights = [*args, *kwargs.values()]
    out = torch.zeros_like(hidden)
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    for expert in index.unique().tolist():
        tokens, places = torch.where(index == expert)  # (n,), (n,)
        x = _product(experts, first, expert, tokens, hidden[tokens])  # (n, 2 I), or (n, I)
        x = experts._apply_gate(x) if experts.has_gate else experts.act_fn(x)  # (n, I)
        x = _product(experts, "down_proj", expert, tokens, x)  # (n, H)
        out = out.index_add(0, tokens, (x * weights[tokens, places, None]).to(out.dtype))
    return out


def _product(
    experts: Any, name: str, expert: int, tokens: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """One linear layer of one expert, for the tokens that chose it. x: (n, I)  ->  (n, O)"""
    weight = getattr(experts, name)[expert]
    out: torch.Tensor = x @ (weight if experts.is_transposed else weight.T)
    if out.requires_grad:
        experts.statistics.watch(name, expert, tokens, x, out)
    return out + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else out


ALL_EXPERTS_FUNCTIONS.register(FUNCTION, _experts_forward)
