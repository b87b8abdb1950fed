"""What one shelf adds to an expert's linear layer. Knows no models and no tokens."""

import torch

from representation.formats import plane_name
from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.packed_linear import packed_linear
from serve_app.engine.experts.shelves import Pick


def part_linear(multiplier: Multiplier, pick: Pick, name: str, x: torch.Tensor) -> torch.Tensor:
    """Each pair times the matrix `name` of its part, and what the part adds to the bias.

    x: (m, I), in the order of the pick  ->  (m, O); zero in rows that only pad
    """
    out = _matrix_product(multiplier, pick, name, x)
    bias = pick.shelf.tensors.get(f"{name}_bias")
    if bias is not None:
        rows = pick.rows.clamp(max=pick.shelf.num_rows - 1) if pick.padded else pick.rows
        out = (out + bias[rows]).to(x.dtype)
    if pick.padded:
        out = out.masked_fill((pick.rows == pick.shelf.num_rows).unsqueeze(1), 0)
    return out


def _matrix_product(multiplier: Multiplier, pick: Pick, name: str, x: torch.Tensor) -> torch.Tensor:
    """x: (m, I)  ->  (m, O); in rows that only pad whatever was there"""
    shelf = pick.shelf
    fmt, tensors = shelf.key.format, shelf.tensors
    if fmt.kind == "dense":
        transposed = shelf.shape.expert.transposed
        return multiplier.grouped(x, tensors[name], pick.groups, transposed=transposed)
    if fmt.kind == "rank":
        inner = multiplier.grouped(x, tensors[f"{name}.right"], pick.groups)  # (m, r)
        return multiplier.grouped(inner, tensors[f"{name}.left"], pick.groups)
    planes = {width: tensors[plane_name(name, width)] for width in fmt.planes}
    return packed_linear(multiplier, x, planes, tensors[f"{name}.scales"], fmt, pick.groups)
