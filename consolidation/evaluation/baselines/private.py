"""Every model's own experts, rounded to k bits. Nothing is shared.

Rounds to the nearest level in groups of 32 input features of an output row, with one bfloat16 scale
per group and symmetric half-step levels. Of three largest levels (1, 0.9 and 0.8 of a group's
largest value) it takes the one with the smallest squared error (the clipping search of
MSE-calibrated quantisers, e.g. Nagel et al., "A white paper on neural network quantization", 2021,
section 3.1).

Bytes: for each model the codes and scales of its matrices, and its vectors (biases) as they are.
"""

from dataclasses import dataclass

import torch

from consolidation.evaluation.baselines.subjects import Subjects, Tensors
from representation.formats import SCALE_DTYPE, Packed

GROUP = 32
CLIPPINGS = (1.0, 0.9, 0.8)


@dataclass(frozen=True, slots=True)
class Private:
    """Each model's own experts, at `bits` bits per weight."""

    subjects: Subjects
    bits: int

    @property
    def name(self) -> str:
        """See `Method.name`."""
        return f"private-{self.bits}-bit"

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        subjects = self.subjects
        return len(subjects.names) * sum(
            subjects.num_experts(layer)
            * Packed(self.bits, GROUP).num_bytes(
                subjects.shape(layer), subjects.dtype, residual=False
            )
            for layer in range(subjects.num_layers)
        )

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`."""
        found = self.subjects.model(model, layer)
        shape = self.subjects.shape(layer)
        for name in shape.matrices:
            stack = found[name].mT if shape.transposed else found[name]
            rounded = _round(stack, self.bits)
            found[name] = rounded.mT if shape.transposed else rounded
        return found


def _round(stack: torch.Tensor, bits: int) -> torch.Tensor:
    """(E, O, I) -> (E, O, I)"""
    num_columns = stack.shape[-1]
    padded = torch.nn.functional.pad(stack, (0, -num_columns % GROUP))
    groups = padded.unflatten(-1, (-1, GROUP))  # (E, O, G, GROUP)
    tried = torch.stack([_at_clipping(groups, bits, clipping) for clipping in CLIPPINGS])
    best = (tried - groups).square().sum(-1, keepdim=True).argmin(0, keepdim=True)
    return tried.take_along_dim(best, 0)[0].flatten(-2)[..., :num_columns]


def _at_clipping(groups: torch.Tensor, bits: int, clipping: float) -> torch.Tensor:
    half = (2**bits - 1) / 2
    scales = (groups.abs().amax(-1, keepdim=True) * clipping / half).to(SCALE_DTYPE).float()
    scales = scales.clamp_min(torch.finfo(SCALE_DTYPE).tiny)
    codes = (groups / scales + half).round().clamp(0, 2 * half)
    values: torch.Tensor = (codes - half) * scales
    return values
