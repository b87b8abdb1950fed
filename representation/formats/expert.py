"""An expert as the sum of its parts, in float32: the reference for all that serves them."""

from collections.abc import Sequence

import torch

from representation.formats.base import Format, Tensors
from representation.formats.shape import ExpertShape


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
            total = _sum([fmt.decode(tensors, name, shape) for fmt, tensors in parts])
            found[name] = (total.T if shape.transposed else total).contiguous()
    return found


def _sum(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
