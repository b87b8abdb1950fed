"""An expert as the sum of its parts, in float32: the reference for all that serves them.

Also how codes and factors become the tensors of a part's blob. Decides neither; reads no file.
"""

from collections.abc import Mapping, Sequence

import torch

from representation.formats import SCALE_DTYPE, ExpertShape, Format, plane_name
from representation.packing import dequantise, pack

Tensors = Mapping[str, torch.Tensor]
"""The tensors of one blob, by name."""


def matrix(tensors: Tensors, name: str, fmt: Format, shape: ExpertShape) -> torch.Tensor:
    """What a part adds to a matrix. -> (O, I) float32"""
    if fmt.kind == "dense":
        found = tensors[name].float()
        return found.T if shape.transposed else found
    if fmt.kind == "rank":
        return tensors[f"{name}.left"].float() @ tensors[f"{name}.right"].float()
    planes = {width: tensors[plane_name(name, width)] for width in fmt.planes}
    return dequantise(planes, tensors[f"{name}.scales"], fmt, shape.matrix(name)[1])


def dense_expert(
    parts: Sequence[tuple[Format, Tensors]], shape: ExpertShape
) -> dict[str, torch.Tensor]:
    """The sum of a slot and its residuals by parameter, as the module has them. float32

    One dense part comes back as it is, widened and nothing else.
    """
    found = {}
    for name in shape.parameters:
        if name in shape.vectors:
            found[name] = _sum([tensors[name].float() for _, tensors in parts])
        else:
            total = _sum([matrix(tensors, name, fmt, shape) for fmt, tensors in parts])
            found[name] = (total.T if shape.transposed else total).contiguous()
    return found


def encode_packed(
    matrices: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    vectors: Tensors,
    fmt: Format,
    shape: ExpertShape,
) -> dict[str, torch.Tensor]:
    """The tensors of a packed part. matrices: name -> codes (O, I) uint8, scales (O, G)

    Scales are rounded to bfloat16; vectors are taken as they are: a slot's own, or a residual's
    float32 difference. Raises `ValueError` when shapes do not fit.
    """
    found = dict(vectors)
    for name, (codes, scales) in matrices.items():
        num_rows, num_columns = shape.matrix(name)
        expected = (num_rows, num_columns), (num_rows, -(-num_columns // fmt.group))
        if (codes.shape, scales.shape) != expected:
            raise ValueError(
                f"{name}: codes {list(codes.shape)} and scales {list(scales.shape)} "
                f"instead of {list(expected[0])} and {list(expected[1])}"
            )
        for width, plane in pack(codes, fmt.bits).items():
            found[plane_name(name, width)] = plane
        found[f"{name}.scales"] = scales.to(SCALE_DTYPE)
    return found


def encode_rank(
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]], vectors: Tensors, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The tensors of a low-rank part, rounded to `dtype`. factors: name -> (O, r), (r, I)"""
    found = dict(vectors)
    for name, (left, right) in factors.items():
        found[f"{name}.left"] = left.to(dtype)
        found[f"{name}.right"] = right.to(dtype)
    return found


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
