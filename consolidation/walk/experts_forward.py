"""How a stock model computes its experts in a walk, with one in hand at a time. Reads none.

Registered with transformers' experts interface. What its function does depends on what the thread
is at. In a whole model it computes with the module's own weights. In a walk it computes with those
that `Inline` reads, or ends the layer with what is asked of its experts (`Reached`), or returns
what they gave (`Given`): so tokens of many inputs can have their experts computed together, by
`walk/side_by_side.py`.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from consolidation.arithmetic.float_products import product
from consolidation.walk.asked import Asked

FUNCTION = "expertpool_streamed"

Matrices = Mapping[str, torch.Tensor]
"""One expert's tensors by parameter name, in float32, where they are computed with."""
Read = Callable[[int], Matrices]


class Reached(Exception):
    """Ends a layer at its experts, with what is asked of them."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked


@dataclass(slots=True)
class Given:
    """What a layer's experts gave: out (T, H). `asked` is noted when the layer comes to them."""

    out: torch.Tensor
    asked: Asked | None = None


@dataclass(frozen=True, slots=True)
class Inline:
    """Experts are computed when a layer comes to them: each is read, used and dropped.

    seen: told what is asked of them.
    """

    read: Read
    seen: Callable[[Asked], None] | None = None


class Stop:
    """A layer ends at its experts: raises `Reached`."""


class _Here(threading.local):
    at: Inline | Stop | Given | None = None


_here = _Here()


@contextmanager
def computing(at: Inline | Stop | Given) -> Iterator[None]:
    """What this thread does at the experts of a layer."""
    before, _here.at = _here.at, at
    try:
        yield
    finally:
        _here.at = before


def _experts_forward(
    experts: Any, hidden: torch.Tensor, *args: torch.Tensor, **kwargs: torch.Tensor
) -> torch.Tensor:
    """The function of the experts interface. hidden: (T, H)   index, weights: (T, K)  ->  (T, H)"""
    index, weights = [*args, *kwargs.values()]
    asked, at = Asked(hidden, index, weights), _here.at
    if isinstance(at, Stop):
        raise Reached(asked)
    if isinstance(at, Given):
        at.asked = asked
        return at.out
    if at is not None and at.seen is not None:
        at.seen(asked)
    return computed(experts, asked, partial(_held, experts) if at is None else at.read)


def computed(experts: Any, asked: Asked, read: Read) -> torch.Tensor:
    """What a layer's experts give, one after another. experts: the stock module  ->  (T, H)"""
    outputs = (
        (pairs, output(experts, read(pairs.expert), asked.hidden[pairs.tokens]))
        for pairs in asked.pairs()
    )
    return asked.summed(outputs)


def _held(experts: Any, expert: int) -> dict[str, torch.Tensor]:
    """Of a whole model."""
    return {name: tensor[expert] for name, tensor in experts.named_parameters(recurse=False)}


def first_name(experts: Any) -> str:
    """The first of an expert's two matrices."""
    return "gate_up_proj" if experts.has_gate else "up_proj"


def output(experts: Any, own: Matrices, x: torch.Tensor) -> torch.Tensor:
    """What an expert gives. experts: the stock module   (n, H) -> (n, H)"""
    return _through(experts, own, "down_proj", _gated(experts, _first(experts, own, x)))


@dataclass(frozen=True, slots=True)
class Gradients:
    """What comes back through an expert. inner: (n, I), what its second matrix was given
    first: (n, 2 I), or (n, I) without a gate, of the first one's product
    hidden: (n, H), of what the expert was given   weights: (n,), of the router's
    """

    inner: torch.Tensor
    first: torch.Tensor
    hidden: torch.Tensor
    weights: torch.Tensor


def gradients(
    experts: Any, own: Matrices, x: torch.Tensor, weights: torch.Tensor, outer: torch.Tensor
) -> Gradients:
    """Carry gradients back through an expert, which computes again; its weights get none.

    x: (n, H), what it was given   weights: (n, 1)   outer: (n, H), of what all experts gave
    """
    leaf = _first(experts, own, x).detach().requires_grad_()  # (n, 2 I)
    with torch.enable_grad():
        inner = _gated(experts, leaf)  # (n, I)
    back = product(outer, _matrix(experts, own, "down_proj").T)  # (n, I)
    of_weights = (back * inner.detach()).sum(1)
    if experts.has_bias:
        of_weights = of_weights + outer @ own["down_proj_bias"]
    (first,) = torch.autograd.grad(inner, leaf, back * weights)
    hidden = product(first, _matrix(experts, own, first_name(experts)).T)
    return Gradients(inner.detach(), first, hidden, of_weights)


def _first(experts: Any, own: Matrices, x: torch.Tensor) -> torch.Tensor:
    """What the first matrix gives. (n, H) -> (n, 2 I), or (n, I) without a gate"""
    return _through(experts, own, first_name(experts), x)


def _through(experts: Any, own: Matrices, name: str, x: torch.Tensor) -> torch.Tensor:
    out = product(x, _matrix(experts, own, name))
    return out + own[f"{name}_bias"] if experts.has_bias else out


def _gated(experts: Any, first: torch.Tensor) -> torch.Tensor:
    """What the second matrix is given. -> (n, I)"""
    found: torch.Tensor
    found = experts._apply_gate(first) if experts.has_gate else experts.act_fn(first)
    return found


def _matrix(experts: Any, own: Matrices, name: str) -> torch.Tensor:
    """One linear layer of an expert. -> (O, I)"""
    return own[name].T if experts.is_transposed else own[name]


ALL_EXPERTS_FUNCTIONS.register(FUNCTION, _experts_forward)
