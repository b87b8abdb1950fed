"""Codes of 1 to 8 bits as planes of bytes, and back to values. Chooses no code and no scale.

A code is split into planes of 8, 4, 2 and 1 bits, so that no code straddles a byte: 3 bits are a
plane of 2 and one of 1. The widest plane holds a code's most significant bits; within a byte the
first column lies in the lowest bits. Every tensor may have more dimensions in front, and any block
of rows can be read by itself.
"""

import functools
import math
from collections.abc import Mapping

import torch

from representation.formats import Format, packed

_WHOLE = {4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""Dtypes that a lookup moves as one element, by bytes."""


def pack(codes: torch.Tensor, bits: int) -> dict[int, torch.Tensor]:
    """Planes by width. codes: (…, O, I) uint8  ->  (…, O, ceil(I * width / 8)) uint8"""
    if codes.dtype != torch.uint8:
        raise ValueError(f"codes are {codes.dtype}, not uint8")
    if codes.numel() and int(codes.max()) >> bits:
        raise ValueError(f"code {int(codes.max())} has more than {bits} bits")
    return {
        width: _squeeze((codes >> shift) & (2**width - 1), width) for width, shift in _shifts(bits)
    }


def unpack(planes: Mapping[int, torch.Tensor], bits: int, num_columns: int) -> torch.Tensor:
    """Codes of planes, the inverse of `pack`. -> (…, O, num_columns) uint8"""
    codes = torch.zeros((), dtype=torch.uint8, device=planes[bits & -bits].device)
    for width, shift in _shifts(bits):
        places = torch.arange(0, 8, width, dtype=torch.uint8, device=planes[width].device)
        spread = (planes[width].unsqueeze(-1) >> places) & (2**width - 1)
        codes = codes | (spread.flatten(-2)[..., :num_columns] << shift)
    return codes


def dequantise(
    planes: Mapping[int, torch.Tensor],
    scales: torch.Tensor,
    fmt: Format,
    num_columns: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Values of packed rows, rounded once. scales: (…, O, G)  ->  (…, O, num_columns)

    A byte becomes the levels of all its columns by one lookup in a table of 256; planes add up.
    Beside the result it needs 4 bytes of memory for every byte of the planes.
    """
    # Levels and sums of levels are multiples of 1/2 below 128, so bfloat16 holds them exactly.
    work = dtype if dtype == torch.bfloat16 else torch.float32
    widest, *narrower = fmt.planes
    values = _levels(planes[widest], fmt.bits, widest, work)[..., :num_columns]
    for width in narrower:
        values += _levels(planes[width], fmt.bits, width, work)[..., :num_columns]
    num_whole = num_columns // fmt.group
    split = num_whole * fmt.group
    factors = scales.to(work).unsqueeze(-1)
    if num_whole:
        values[..., :split].unflatten(-1, (num_whole, fmt.group)).mul_(factors[..., :num_whole, :])
    if split < num_columns:
        values[..., split:].mul_(factors[..., -1, :])
    return values.to(dtype)


def _shifts(bits: int) -> list[tuple[int, int]]:
    """(width, how far its bits lie above the code's lowest), widest first."""
    widths = packed(bits, 1).planes
    return [(width, sum(widths[place + 1 :])) for place, width in enumerate(widths)]


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


def _levels(plane: torch.Tensor, bits: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """What a plane adds to each column's level, padding included. -> (…, O, bytes * 8 / width)"""
    if bits == 8:
        return plane.to(dtype).sub_(_half(bits))
    per_byte = 8 // width
    # Eight float32 are more than one element can hold: read as bfloat16, they are widened after.
    held = torch.bfloat16 if per_byte * dtype.itemsize not in _WHOLE else dtype
    table = _table(bits, width, held, plane.device)
    found = table.index_select(0, plane.reshape(-1).int()).view(held).to(dtype)
    return found.view(*plane.shape[:-1], plane.shape[-1] * per_byte)


@functools.cache
def _table(bits: int, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Levels of all columns in a byte, as one element for each byte. -> (256,)"""
    shift = dict(_shifts(bits))[width]
    byte = torch.arange(256)[:, None]
    codes = (byte >> torch.arange(0, 8, width)) & (2**width - 1)
    levels: torch.Tensor = (codes << shift).float()
    if width == packed(bits, 1).planes[0]:
        levels -= _half(bits)
    whole = _WHOLE[8 // width * dtype.itemsize]
    return levels.to(dtype).view(whole).view(-1).to(device)


def _half(bits: int) -> float:
    return ((1 << bits) - 1) / 2
