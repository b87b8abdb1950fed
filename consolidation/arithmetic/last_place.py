"""Whether tensors differ by no more than another rounding does. Looks at values, not at metrics.

Copies of one model that were written by different tools, or summed in another order when they were
converted, differ so.
"""

from collections.abc import Iterator

import torch

SHARE = 0.01
"""The most of a tensor's values that may be one unit in the last place apart."""
FIRST, PART = 1 << 12, 1 << 18
"""Values looked at together: few at first, as two tensors that are far apart show it at once."""
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
WIDER = {torch.int16: torch.int32, torch.int32: torch.int64}
"""Integers that differences of others fit in."""


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    flat = (one.reshape(-1), other.reshape(-1))
    return torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in flat))


def nearly_equal(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal after rounding to `dtype`, or nearly.

    Nearly: at most one unit in the last place apart, in at most 1 % of their values. The zeros are
    equal; a value that is not finite equals only itself. What are not floats must be the same.
    """
    if one.shape != other.shape:
        return False
    if not (one.is_floating_point() and other.is_floating_point()):
        return same_bits(one, other)
    allowed, apart = int(SHARE * one.numel()), 0
    one, other = one.reshape(-1), other.reshape(-1)
    for part in _parts(one.numel()):
        a, b = one[part], other[part]
        steps = (_places(a, dtype) - _places(b, dtype)).abs()
        apart += int((steps > 0).sum())
        finite = a.isfinite() & b.isfinite()
        if apart > allowed or int(steps.max()) > 1 or bool(steps[~finite].any()):
            return False
    return True


def _parts(num_values: int) -> Iterator[slice]:
    """Each twice as long as the one before, up to `PART`."""
    start, size = 0, FIRST
    while start < num_values:
        yield slice(start, start + size)
        start, size = start + size, min(2 * size, PART)


def _places(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Of each value, its number among all values of a dtype, in order, from zero on.

    In integers that differences of them fit in.
    """
    bits = values.to(dtype).view(BITS[dtype])
    wide = bits.to(WIDER[bits.dtype])
    # Bits of negative numbers begin with the sign, as those of the least integer do.
    return torch.where(wide < 0, torch.iinfo(bits.dtype).min - wide, wide)
