"""bitsandbytes' 4 bits: codes of one of 16 values (NF4 or FP4) with a scale for each block.

`<name>` holds two codes a byte, the first in the high bits, whatever its dtype. `<name>.absmax` has
the scales of blocks that run on over rows, and `<name>.quant_map` the 16 values. Scales that are
quantised again are codes of `.nested_quant_map` with `.nested_absmax`, plus an offset. The sizes
are JSON in `<name>.quant_state.bitsandbytes__nf4` or `__fp4`. Source of NF4: Dettmers and others,
QLoRA (2305.14314).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.checkpoints.quantised.quantised_tensor import (
    Encoded,
    check_part,
    in_blocks,
    values_of_nibbles,
)
from consolidation.checkpoints.tensor_file import DTYPES, StoredTensor
from consolidation.errors import Refused
from representation.json_text import parse_json

STATE = ".quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
WHAT = "bitsandbytes with 4 bits"


@dataclass(frozen=True, slots=True)
class Nested:
    """Scales that are codes again. A scale is value · the scale of its block + offset."""

    scales: StoredTensor
    values: StoredTensor
    block: int
    offset: float


@dataclass(frozen=True, slots=True)
class BitsAndBytes:
    """A matrix (O, I). A value is that of its code · the scale of its block of `block` weights."""

    codes: StoredTensor
    scales: StoredTensor
    values: StoredTensor
    nested: Nested | None
    block: int
    shape: tuple[int, ...]
    kind: str

    is_transposed = False

    @property
    def label(self) -> str:
        """The format, for people."""
        return f"bitsandbytes {self.kind}{', scales too' if self.nested else ''}"

    @property
    def parts(self) -> list[StoredTensor]:
        """All that decoding reads."""
        nested = [] if self.nested is None else [self.nested.scales, self.nested.values]
        return [self.codes, self.scales, self.values, *nested]

    def decode(self, index: int | None) -> torch.Tensor:
        """The matrix. -> (O, I)"""
        packed = self.codes.read().reshape(-1).view(torch.uint8)
        codes = values_of_nibbles(packed, self.values.read(), high_first=True)
        codes = codes[: math.prod(self.shape)]
        return _scaled(codes, self._scales(), self.block).view(self.shape)

    def _scales(self) -> torch.Tensor:
        scales = self.scales.read()
        if self.nested is None:
            return scales
        scales = self.nested.values.read()[scales.int()]
        return _scaled(scales, self.nested.scales.read(), self.nested.block) + self.nested.offset


def _scaled(codes: torch.Tensor, scales: torch.Tensor, block: int) -> torch.Tensor:
    """codes: (n,)   scales: (⌈n / block⌉,)   ->  codes, changed in place"""
    for part, scale in in_blocks(codes[None], scales, (1, block)):
        part *= scale
    return codes


def take(settings: Mapping[str, Any], stored: dict[str, StoredTensor]) -> dict[str, Encoded]:
    """Weights in this format, by name. Takes their parts out of `stored`. Raises `Refused`."""
    found: dict[str, Encoded] = {}
    for key in [key for key in stored if STATE in key]:
        name, _, kind = key.partition(STATE)
        found[name] = _encoded(name, kind, stored.pop(key), stored)
    return found


def _encoded(
    name: str, kind: str, state: StoredTensor, stored: dict[str, StoredTensor]
) -> BitsAndBytes:
    def part(suffix: str) -> StoredTensor:
        found = stored.pop(name + suffix, None)
        if found is None:
            raise Refused(f"{state.file}: {state.key} is there without {name}{suffix}")
        return found

    sizes = _sizes(state)
    codes, scales, values = part(""), part(".absmax"), part(".quant_map")
    shape, block = tuple(sizes["shape"]), sizes["blocksize"]
    num_scales = -(-math.prod(shape) // block)
    num_bytes = -(-math.prod(shape) // 2)
    if kind not in KINDS or len(shape) != 2 or codes.num_bytes != num_bytes:
        raise Refused(
            f"{codes.file}: {codes.key} has {codes.num_bytes} bytes of {kind}; "
            f"{WHAT} needs {num_bytes} for {list(shape)}, and nf4 or fp4"
        )
    if codes.dtype not in DTYPES:
        raise Refused(f"{codes.file}: {codes.key} is {codes.dtype}, which cannot be read")
    check_part(values, WHAT, {"F32"}, (16,))
    is_nested = name + ".nested_absmax" in stored
    check_part(scales, WHAT, {"U8" if is_nested else "F32"}, (num_scales,))
    nested = None
    if is_nested:
        nested = Nested(
            part(".nested_absmax"),
            part(".nested_quant_map"),
            sizes["nested_blocksize"],
            float(sizes["nested_offset"]),
        )
        check_part(nested.values, WHAT, {"F32"}, (256,))
        check_part(nested.scales, WHAT, {"F32"}, (-(-num_scales // nested.block),))
    return BitsAndBytes(codes, scales, values, nested, block, shape, kind)


def _sizes(state: StoredTensor) -> dict[str, Any]:
    """The sizes of a weight's blocks, and its shape."""
    check_part(state, WHAT, {"U8"}, (state.num_bytes,))
    try:
        sizes: dict[str, Any] = parse_json(bytes(state.read().tolist()))
        sizes = {"nested_blocksize": 1, "nested_offset": 0.0, **sizes}
        lengths = [*sizes["shape"], sizes["blocksize"], sizes["nested_blocksize"]]
        if not all(isinstance(length, int) and length > 0 for length in lengths):
            raise ValueError(f"sizes {lengths}")
        float(sizes["nested_offset"])
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{state.file}: {state.key} cannot be read: {error}") from error
    return sizes
