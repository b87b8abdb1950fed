"""Whether tensors differ by no more than another rounding does. Looks at values, not at metrics.

Copies of one model that were written by different tools, or summed in another order when they were
converted, differ so.
"""

import torch

SHARE = 0.01
"""The most of a tensor's values that may be one unit in the last place apart."""
PART = 1 << 20
"""Values looked at together, which bounds memory and ends early where tensors are far apart."""
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


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
    for a, b in zip(one.reshape(-1).split(PART), other.reshape(-1).split(PART), strict=True):
        if not a.numel():
            continue
        steps = (_places(a, dtype) - _places(b, dtype)).abs()
        apart += int((steps > 0).sum())
        finite = a.isfinite() & b.isfinite()
        if apart > allowed or int(steps.max()) > 1 or bool(steps[~finite].any()):
            return False
    return True


def _places(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Of each value, its number among all values of a dtype, in order, from zero on. int64"""
    bits = values.to(dtype).view(BITS[dtype])
    # Bits of negative numbers begin with the sign, as those of the least integer do.
    return torch.where(bits < 0, torch.iinfo(bits.dtype).min - bits.long(), bits.long())
