"""Codes of 1 to 8 bits as bfloat16 operands of a product, in registers. Reads no memory.

A word of 32 bits holds neighbouring columns, the first in the lowest bits. `0x4300 | code` is
128 + code in bfloat16, exact up to 7 bits, and two codes 16 bits apart in a word become two numbers
at once. So the columns come out in another order, and x is put into the same order.

Numbers made by putting codes into the mantissa are an idea of "Who Says Elephants Can't Run"
(Kim et al. 2022); here, fields are first put 4 bits apart, so all widths go one way.
"""

import triton
import triton.language as tl

EXPONENTS = 0x43004300
"""128 in bfloat16, twice. Kernels take it as an argument: a mask and this are one instruction only
if one of them is in a register."""


@triton.jit
def numbers_of(words: tl.tensor, exponents: tl.tensor, width: tl.constexpr) -> tl.tensor:
    """128 + code, for the 128 columns of a group, in the order of `in_order`.

    Of 8 bits, it takes the lower 4.   words: (N, 4 * width) int32  ->  (N, 128) bfloat16
    """
    lines: tl.constexpr = words.shape[0]
    if width == 1:
        words = tl.reshape(tl.join(words, words >> 1), (lines, 8))
    if width <= 2:
        words = tl.reshape(tl.join(words, words >> 2), (lines, 16))
    if width == 8:
        pairs = tl.join(words, words >> 8)  # (N, 32, 2)
        pairs = (pairs & 0x000F000F) | exponents
    else:
        even, odd = tl.join(words, words >> 8), tl.join(words >> 4, words >> 12)  # (N, 16, 2)
        pairs = tl.join(even, odd)  # (N, 16, 2, 2)
        pairs = (pairs & (((1 << width) - 1) * 0x00010001)) | exponents
    pairs = tl.reshape(pairs, (lines, 64))
    low = (pairs & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (pairs >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.reshape(tl.join(low, high), (lines, 128))


@triton.jit
def in_order(x: tl.tensor, width: tl.constexpr) -> tl.tensor:
    """The 128 columns of a group in the order of `numbers_of`. (M, 128)  ->  (M, 128)"""
    rows: tl.constexpr = x.shape[0]
    if width == 8:
        x = tl.permute(tl.reshape(x, (rows, 32, 2, 2)), (0, 1, 3, 2))
    elif width == 4:
        x = tl.permute(tl.reshape(x, (rows, 16, 2, 4)), (0, 1, 3, 2))
    elif width == 2:
        x = tl.permute(tl.reshape(x, (rows, 8, 2, 4, 2)), (0, 1, 4, 3, 2))
    else:
        x = tl.permute(tl.reshape(x, (rows, 4, 2, 4, 2, 2)), (0, 1, 5, 4, 3, 2))
    return tl.reshape(x, (rows, 128))
