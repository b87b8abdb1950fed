"""Codes of 1 to 8 bits as planes of bytes, and back to values. Chooses no code and no scale.

A code is split into planes of 8, 4, 2 and 1 bits, so that no code straddles a byte: 3 bits are a
plane of 2 and one of 1. The first plane holds a code's most significant bits; within a byte the
first column lies in the lowest bits. Every tensor may have more dimensions in front, and any block
of rows can be read by itself.
"""

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import torch

_WHOLE = {4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""Dtypes that a lookup moves as one element, by bytes."""

Widths = tuple[int, ...]
"""Bits of each plane of a code, the most significant first."""


class Coded(Protocol):
    """A format of codes: the widths of its planes, and the columns that share a scale."""

    @property
    def widths(self) -> Widths: ...

    @property
    def group(self) -> int: ...


def pack(codes: torch.Tensor, widths: Widths) -> list[torch.Tensor]:
    """The planes of codes. codes: (…, O, I) uint8  ->  (…, O, ceil(I * width / 8)) uint8 each

    Raises `ValueError` for codes that are not bytes or have more bits than the planes.
    """
    bits = sum(widths)
    if codes.dtype != torch.uint8:
        raise ValueError(f"codes are {codes.dtype}, not uint8")
    if codes.numel() and int(codes.max()) >> bits:
        raise ValueError(f"code {int(codes.max())} has more than {bits} bits")
    return [
        _squeeze((codes >> _shift(widths, place)) & (2**width - 1), width)
        for place, width in enumerate(widths)
    ]


def dequantise(
    planes: Sequence[torch.Tensor],
    scales: torch.Tensor,
    fmt: Coded,
    num_columns: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Values of packed rows, rounded once: (code - (2^bits - 1) / 2) * scale.

    scales: (…, O, G)  ->  (…, O, num_columns)
    A byte becomes the levels of all its columns by one lookup in a table of 256; planes add up.
    Beside the result it needs 4 bytes of memory for every byte of the planes.
    """
    # Levels and sums of levels are multiples of 1/2 below 128, so bfloat16 holds them exactly.
    work = dtype if dtype == torch.bfloat16 else torch.float32
    widths, group = fmt.widths, fmt.group
    values = _levels(planes[0], widths, 0, work)[..., :num_columns]
    for place, plane in enumerate(planes[1:], start=1):
        values += _levels(plane, widths, place, work)[..., :num_columns]
    num_whole = num_columns // group
    split = num_whole * group
    factors = scales.to(work).unsqueeze(-1)
    if num_whole:
        values[..., :split].unflatten(-1, (num_whole, group)).mul_(factors[..., :num_whole, :])
    if split < num_columns:
        values[..., split:].mul_(factors[..., -1, :])
    return values.to(dtype)


def _shift(widths: Widths, place: int) -> int:
    """How far the bits of a plane lie above the code's lowest."""
    return sum(widths[place + 1 :])


def _squeeze(parts: torch.Tensor, width: int) -> torch.Tensor:
    """Neighbouring columns of `width` bits into bytes, the last byte filled with zeros."""
    per_byte = 8 // width
    num_bytes = math.ceil(parts.shape[-1] / per_byte)
    padded = torch.nn.functional.pad(parts, (0, num_bytes * per_byte - parts.shape[-1]))
    columns = padded.unflatten(-1, (num_bytes, per_byte))
    found = torch.zeros_like(columns[..., 0])
    for place in range(per_byte):
        found |= columns[..., place] << (place * width)
    return found


def _levels(plane: torch.Tensor, widths: Widths, place: int, dtype: torch.dtype) -> torch.Tensor:
    """What a plane adds to each column's level, padding included. -> (…, O, bytes * 8 / width)"""
    if widths == (8,):
        return plane.to(dtype).sub_(_half(8))
    per_byte = 8 // widths[place]
    # Eight float32 are more than one element can hold: read as bfloat16, they are widened after.
    held = torch.bfloat16 if per_byte * dtype.itemsize not in _WHOLE else dtype
    table = _table(widths, place, held, plane.device)
    found = table.index_select(0, plane.reshape(-1).int()).view(held).to(dtype)
    return found.view(*plane.shape[:-1], plane.shape[-1] * per_byte)


@functools.cache
def _table(widths: Widths, place: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Levels of all columns in a byte, as one element for each byte. -> (256,)"""
    width = widths[place]
    byte = torch.arange(256, device=device)[:, None]
    codes = (byte >> torch.arange(0, 8, width, device=device)) & (2**width - 1)
    levels: torch.Tensor = (codes << _shift(widths, place)).float()
    if place == 0:
        levels -= _half(sum(widths))
    whole = _WHOLE[8 // width * dtype.itemsize]
    return levels.to(dtype).view(whole).view(-1)


def _half(bits: int) -> float:
    return ((1 << bits) - 1) / 2
