"""What one shelf adds to an expert's linear layer. Knows no models and no tokens."""

import torch

from serve_app.engine.device.matmul import Multiplier
from serve_app.engine.experts.runs import runs_of
from serve_app.engine.experts.shelves import Pick


def part_linear(multiplier: Multiplier, pick: Pick, name: str, x: torch.Tensor) -> torch.Tensor:
    """Each pair times the matrix `name` of its part, and what the part adds to the bias.

    x: (m, I), in the order of the pick  ->  (m, O); zero in rows that only pad
    """
    out = runs_of(pick, name).product(multiplier, x)  # (m, O)
    bias = pick.shelf.tensors.get(f"{name}_bias")
    if bias is not None:
        rows = pick.rows.clamp(max=pick.shelf.num_rows - 1) if pick.padded else pick.rows
        out = (out + bias[rows]).to(x.dtype)
    if pick.padded:
        out = out.masked_fill((pick.rows == pick.shelf.num_rows).unsqueeze(1), 0)
    return out
