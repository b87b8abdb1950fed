"""Computes the experts of a streamed model, one after another, and their gradients. Keeps nothing.

Registered with transformers' experts interface. Weights get no gradients. Who calls `showing` is
shown, on the way back, what each expert's matrices were given and the gradients of their products;
what is made of it is in `statistics/moments.py`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from consolidation.arithmetic.float_products import product

FUNCTION = "expertpool_streamed"

ByMatrix = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the tokens that chose an expert gave its matrices, and what came back.

    tokens: (n,) their places among T   weights: (n, 1) of their router
    hidden: (T, H) what all experts were given   gradient: (T, H) of what all gave
    inner: (n, I), inputs of the second matrix   first_gradients: (n, 2 I), of the first one's
    product, or (n, I) without a gate
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    hidden: torch.Tensor
    gradient: torch.Tensor
    inner: torch.Tensor
    first_gradients: torch.Tensor

    def products(self, experts: Any, real: torch.Tensor) -> ByMatrix:
        """Of the tokens that are real, (T,): inputs and gradients, (n, I) and (n, O), by matrix."""
        kept = real[self.tokens]
        tokens, weights = self.tokens[kept], self.weights[kept]
        return {
            first_name(experts): (self.hidden[tokens], self.first_gradients[kept]),
            "down_proj": (self.inner[kept], self.gradient[tokens] * weights),
        }


Sight = Callable[[int, Shown], None]
"""Is shown an expert by its number."""


class _Here(threading.local):
    sight: Sight | None = None


_here = _Here()


@contextmanager
def showing(sight: Sight) -> Iterator[None]:
    """Experts that this thread runs forwards are shown to `sight` on their way back."""
    _here.sight = sight
    try:
        yield
    finally:
        _here.sight = None


def _experts_forward(
    experts: Any, hidden: torch.Tensor, *args: torch.Tensor, **kwargs: torch.Tensor
) -> torch.Tensor:
    """The function of the experts interface. hidden: (T, H)   index, weights: (T, K)  ->  (T, H)"""
    index, weights = [*args, *kwargs.values()]
    found: torch.Tensor = _Experts.apply(hidden, weights, index, experts)  # type: ignore[no-untyped-call]
    return found


class _Experts(torch.autograd.Function):
    """All experts of a layer. What the first matrices give is kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weights: torch.Tensor, index: torch.Tensor, experts: Any
    ) -> torch.Tensor:
        keeps = any(ctx.needs_input_grad)
        ctx.experts, ctx.sight, ctx.firsts = experts, _here.sight, {}
        out = torch.zeros_like(hidden)
        for expert, tokens, places in _chosen(index):
            first = _first(experts, expert, hidden[tokens])  # (n, 2 I), or (n, I)
            if keeps:
                ctx.firsts[expert] = (tokens, places, first)
            y = product(_gated(experts, first), _matrix(experts, "down_proj", expert))  # (n, H)
            if experts.has_bias:
                y = y + experts.down_proj_bias[expert]
            out.index_add_(0, tokens, (y * weights[tokens, places, None]).to(out.dtype))
        ctx.save_for_backward(hidden, weights)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        hidden, weights = (tensor.detach() for tensor in ctx.saved_tensors)
        experts = ctx.experts
        of_hidden, of_weights = torch.zeros_like(hidden), torch.zeros_like(weights)
        for expert, (tokens, places, first) in ctx.firsts.items():
            weight = weights[tokens, places, None]  # (n, 1)
            outer = gradient[tokens]  # (n, H)
            with torch.enable_grad():
                leaf = first.detach().requires_grad_()
                inner = _gated(experts, leaf)  # (n, I)
            down = _matrix(experts, "down_proj", expert)
            back = product(outer, down.T)  # (n, I)
            own = (back * inner.detach()).sum(1)
            if experts.has_bias:
                own = own + outer @ experts.down_proj_bias[expert]
            of_weights[tokens, places] = own.to(of_weights.dtype)
            (firsts,) = torch.autograd.grad(inner, leaf, back * weight)
            up = _matrix(experts, first_name(experts), expert)
            of_hidden.index_add_(0, tokens, product(firsts, up.T))
            if ctx.sight is not None:
                given = (tokens, weight, hidden, gradient)
                ctx.sight(expert, Shown(*given, inner.detach(), firsts))
        return of_hidden, of_weights, None, None


def _chosen(index: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each expert that is chosen, with the tokens that chose it and as their how-manieth.

    index: (T, K)  ->  number, (n,), (n,)
    """
    num_choices = index.shape[1]
    found, counts = index.unique(return_counts=True)
    order = index.flatten().argsort(stable=True)  # (T K,)
    for expert, pairs in zip(found.tolist(), order.split(counts.tolist()), strict=True):
        yield expert, pairs // num_choices, pairs % num_choices


def first_name(experts: Any) -> str:
    """The first of an expert's two matrices."""
    return "gate_up_proj" if experts.has_gate else "up_proj"


def _first(experts: Any, expert: int, x: torch.Tensor) -> torch.Tensor:
    """What the first matrix gives. (n, H) -> (n, 2 I), or (n, I) without a gate"""
    name = first_name(experts)
    out = product(x, _matrix(experts, name, expert))
    return out + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else out


def _gated(experts: Any, first: torch.Tensor) -> torch.Tensor:
    """What the second matrix is given. -> (n, I)"""
    found: torch.Tensor
    found = experts._apply_gate(first) if experts.has_gate else experts.act_fn(first)
    return found


def _matrix(experts: Any, name: str, expert: int) -> torch.Tensor:
    """One linear layer of one expert. -> (O, I)"""
    weight: torch.Tensor = getattr(experts, name)[expert]
    return weight.T if experts.is_transposed else weight


ALL_EXPERTS_FUNCTIONS.register(FUNCTION, _experts_forward)
