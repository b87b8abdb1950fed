"""MXFP4, as gpt-oss is published: 4-bit floats with a power of two for each 32 of them.

`<name>_blocks` uint8 (E, O, G, 16) and `<name>_scales` uint8 (E, O, G) are the parameter `<name>`
(E, I, O), with I = 32 G: what is published has output features first, the module has them last.
Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3 (FP4), 5.4.1 (E8M0).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.checkpoints.quantised.quantised_tensor import (
    Encoded,
    check_part,
    values_of_nibbles,
)
from consolidation.checkpoints.tensor_file import StoredTensor
from consolidation.errors import Refused

BLOCKS, SCALES = "_blocks", "_scales"
BYTES = 16
BIAS = 127
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Values of the codes 0 to 7; the fourth bit is the sign."""


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """The matrices of all experts of a layer. A value is FP4 · 2^(scale − 127)."""

    blocks: StoredTensor
    scales: StoredTensor

    label = "mxfp4"
    is_transposed = True

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, I, O)"""
        num_experts, num_out, num_groups, _ = self.blocks.shape
        return num_experts, 2 * BYTES * num_groups, num_out

    @property
    def parts(self) -> list[StoredTensor]:
        """All that decoding reads."""
        return [self.blocks, self.scales]

    def decode(self, index: int | None) -> torch.Tensor:
        """The matrix of one expert. -> (O, I)"""
        values = torch.tensor([*FP4, *(-value for value in FP4)])
        blocks = values_of_nibbles(self.blocks.read(index)[0], values, high_first=False)
        exponents = self.scales.read(index)[0].int() - BIAS  # (O, G)
        blocks *= torch.ldexp(torch.ones(exponents.shape), exponents)[..., None]
        return blocks.flatten(1)  # (O, G, 32) -> (O, I)


def take(settings: Mapping[str, Any], stored: dict[str, StoredTensor]) -> dict[str, Encoded]:
    """Weights in this format, by name. Takes their parts out of `stored`. Raises `Refused`."""
    found: dict[str, Encoded] = {}
    for key in [key for key in stored if key.endswith(BLOCKS)]:
        name = key.removesuffix(BLOCKS)
        blocks = stored.pop(key)
        scales = stored.pop(name + SCALES, None)
        if scales is None:
            raise Refused(f"{blocks.file}: {key} has no {name}{SCALES}")
        lead = blocks.shape[:3] if len(blocks.shape) == 4 else (0, 0, 0)
        check_part(blocks, "mxfp4", {"U8"}, (*lead, BYTES))
        check_part(scales, "mxfp4", {"U8"}, lead)
        found[name] = Mxfp4(blocks, scales)
    return found
