"""Products of float32 matrices, by the quickest library that torch has for them. Keeps nothing.

torch gives them to MKL, which uses half the width of an AMD processor's vector units. oneDNN, which
torch brings too and uses for other types, uses all of it: it took 0.45 of the time on Zen 5. Both
add float32 to float32; the last digits differ.
"""

from typing import Any

import torch
from torch.nn import functional

FEWEST_ROWS = 8
"""One row has code of its own in oneDNN, which adds in another order."""


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


def filled_up(rows: torch.Tensor) -> torch.Tensor:
    """Rows of zeros added at the end, up to one of few numbers of rows. (n, I) -> (m, I)

    oneDNN compiles a product for each number of rows or of columns that it adds up over, and keeps
    a thousand of up to 2 MiB each. There are eight m for each power of two, so an eighth is added
    at most, or seven rows.
    """
    step = max(FEWEST_ROWS, 1 << max(0, (len(rows) - 1).bit_length() - 4))
    missing = -len(rows) % step
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = filled_up(x.flatten(0, -2)).contiguous()
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
