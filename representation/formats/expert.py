"""An expert as the sum of its parts, in float32: the reference for all that serves them."""

from collections.abc import Sequence

import torch

from representation.formats.base import Format, Tensors
from representation.formats.shape import ExpertShape


def dense_expert(
    parts: Sequence[tuple[Format, Tensors]], shape: ExpertShape
) -> dict[str, torch.Tensor]:
    """A slot and what its residuals do to it, by parameter, as the module has them. float32

    parts: those of the slot first. One may be for some of the matrices alone, and then has tensors
    of no other. One dense part comes back as it is, widened and nothing else.
    """
    found = {}
    for name in shape.vectors:
        (_, held), *residuals = [(fmt, tensors) for fmt, tensors in parts if name in tensors]
        total = held[name].float()
        for fmt, tensors in residuals:
            total = fmt.vector_onto(total, tensors[name].float())
        found[name] = total
    for name in shape.matrices:
        (slot, held), *residuals = [one for one in parts if _is_for(one[1], name)]
        total = slot.decode(held, name, shape)
        for fmt, tensors in residuals:
            total = fmt.onto(total, tensors, name, shape)
        found[name] = (total.T if shape.transposed else total).contiguous()
    return {name: found[name] for name in shape.parameters}


def _is_for(tensors: Tensors, name: str) -> bool:
    return any(tensor == name or tensor.startswith(f"{name}.") for tensor in tensors)
