"""Products of float32 matrices, by the quickest library that torch has for them. Keeps nothing.

torch gives them to MKL, which uses half the width of an AMD processor's vector units. oneDNN, which
torch brings too and uses for other types, uses all of it: it took 0.45 of the time on Zen 5. Both
add float32 to float32; the last digits differ.
"""

from typing import Any

import torch
from torch.nn import functional


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weightᵀ, as `functional.linear`. x: (…, I)   weight: (O, I)  ->  (…, O)

    A row's sums have one order, whatever rows are multiplied together. Gradients go to x alone,
    unless a weight asks for one.
    """
    if not _ONEDNN or not _suits(x, weight) or weight.requires_grad:
        return functional.linear(x, weight)
    if x.requires_grad and torch.is_grad_enabled():
        found: torch.Tensor = _Product.apply(x, weight)  # type: ignore[no-untyped-call]
        return found
    return _by_onednn(x, weight)


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = x.flatten(0, -2).contiguous()
    if len(rows) == 1:  # One row has code of its own, which adds in another order.
        rows = rows.expand(2, -1).contiguous()
    found: torch.Tensor = _linear()(rows, weight, None, "none", [], "")
    return found[: x.shape[:-1].numel()].view(*x.shape[:-1], len(weight))


def _suits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN has quick code for it: weights that lie with gaps take a thousand times as
    long.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() > 1
        and x.numel() > 0
        and (weight.is_contiguous() or weight.T.is_contiguous())
    )


class _Product(torch.autograd.Function):
    """The product, with a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        return _by_onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _by_onednn(gradient, ctx.weight.T), None


def _linear() -> Any:
    return torch.ops.mkldnn._linear_pointwise


def _has_onednn() -> bool:
    try:
        return torch.backends.mkldnn.is_available() and bool(_linear().default)
    except AttributeError:
        return False


_ONEDNN = _has_onednn()
