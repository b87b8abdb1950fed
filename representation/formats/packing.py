"""Packed: codes of a few bits, a scale for every output row and group of input features.

Codes are at symmetric half-step levels: value = (code - (2^bits - 1) / 2) * scale. Chooses no code
and no scale.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from representation.formats.base import SCALE_DTYPE, Format, Look, Tensors, TensorSpec
from representation.formats.codes import Widths, dequantise, pack
from representation.formats.shape import ExpertShape

MAX_BITS = 8


@dataclass(frozen=True, slots=True)
class Packed(Format):
    """Codes of `bits` bits, a scale for every `group` input features of an output row."""

    bits: int
    group: int

    kind: ClassVar[str] = "packed"
    spelling: ClassVar[str] = "packed-<bits>-<group>"
    shared_slot: ClassVar[Look | None] = Look("shared slot, packed", "sky")
    own_slot: ClassVar[Look | None] = Look("own slot, packed", "orange")
    residual: ClassVar[Look | None] = Look("k-bit difference", "yellow")

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"format {str(self)!r}: bits are 1 to {MAX_BITS}")
        if self.group < 1:
            raise ValueError(f"format {str(self)!r}: groups have at least one input feature")

    @property
    def widths(self) -> Widths:
        """Bits of the planes that codes are split into, widest first: 3 is 2 and 1."""
        return tuple(width for width in (8, 4, 2, 1) if self.bits & width)

    def plane_names(self, name: str) -> list[str]:
        """What the planes of a matrix are called inside a part, in the order of `widths`."""
        return [f"{name}.plane{width}" for width in self.widths]

    def matrix_specs(
        self, shape: ExpertShape, name: str, dtype: torch.dtype
    ) -> dict[str, TensorSpec]:
        """See `Format.matrix_specs`. Planes are (O, ceil(I * width / 8))."""
        num_outputs, num_columns = shape.matrix(name)
        found: dict[str, TensorSpec] = {}
        for plane, width in zip(self.plane_names(name), self.widths, strict=True):
            found[plane] = ((num_outputs, math.ceil(num_columns * width / 8)), torch.uint8)
        num_groups = math.ceil(num_columns / self.group)
        found[f"{name}.scales"] = ((num_outputs, num_groups), SCALE_DTYPE)
        return found

    def encode(
        self,
        matrices: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        vectors: Tensors,
        shape: ExpertShape,
    ) -> dict[str, torch.Tensor]:
        """The tensors of a part. matrices: codes (O, I) uint8 and scales (O, G), by name

        Scales are rounded to bfloat16; vectors are taken as they are: a slot's own, or a residual's
        float32 difference. Raises `ValueError` when shapes do not fit.
        """
        found = dict(vectors)
        for name, (codes, scales) in matrices.items():
            num_outputs, num_columns = shape.matrix(name)
            expected = (num_outputs, num_columns), (num_outputs, -(-num_columns // self.group))
            if (codes.shape, scales.shape) != expected:
                raise ValueError(
                    f"{name}: codes {list(codes.shape)} and scales {list(scales.shape)} "
                    f"instead of {list(expected[0])} and {list(expected[1])}"
                )
            found |= zip(self.plane_names(name), pack(codes, self.widths), strict=True)
            found[f"{name}.scales"] = scales.to(SCALE_DTYPE)
        return found

    def decode(self, tensors: Tensors, name: str, shape: ExpertShape) -> torch.Tensor:
        """See `Format.decode`."""
        planes = [tensors[plane] for plane in self.plane_names(name)]
        return dequantise(planes, tensors[f"{name}.scales"], self, shape.matrix(name)[1])

    def operations(self, num_outputs: int, num_columns: int) -> int:
        """See `Format.operations`."""
        return 2 * num_outputs * num_columns

    def short(self, dtype: torch.dtype) -> str:
        """See `Format.short`."""
        return str(self.bits)

    def words(self, dtype: torch.dtype) -> str:
        """See `Format.words`."""
        bits = "signs" if self.bits == 1 else f"{self.bits} bits"
        return f"{bits} in groups of {self.group}"
