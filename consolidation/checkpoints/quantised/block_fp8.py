"""FP8 with a scale for each block of a matrix, as DeepSeek and Qwen publish. No other 8 bits.

`<name>` float8 e4m3 (O, I) and `<name>_scale_inv` (⌈O / rows⌉, ⌈I / columns⌉) are the weight
`<name>`; experts that are stored together have one more dimension in front. Without blocks there
is one scale. Source: DeepSeek-V3 Technical Report (2412.19437), section 3.3.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from consolidation.checkpoints.quantised.quantised_tensor import (
    SCALE_DTYPES,
    Encoded,
    check_part,
    in_blocks,
)
from consolidation.checkpoints.tensor_file import StoredTensor
from consolidation.errors import Refused

SCALES = "_scale_inv"
ACTIVATIONS = (".activation_scale", ".input_scale")
"""Scales of inputs: they say how the published model is run, not what it is."""
BLOCK = (128, 128)
"""Where the config does not say."""


@dataclass(frozen=True, slots=True)
class BlockFp8:
    """A matrix, or those of all experts. A value is code · scale of its block.

    block: rows and columns; None: all.
    """

    codes: StoredTensor
    scales: StoredTensor
    block: tuple[int, int] | None

    is_transposed = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(O, I), or (E, O, I)"""
        return self.codes.shape

    @property
    def label(self) -> str:
        """The format, for people."""
        return (
            "fp8" if self.block is None else f"fp8 in blocks of {self.block[0]} × {self.block[1]}"
        )

    @property
    def parts(self) -> list[StoredTensor]:
        """All that decoding reads."""
        return [self.codes, self.scales]

    def decode(self, index: int | None) -> torch.Tensor:
        """One matrix. -> (O, I)"""
        codes, scales = self.codes.read(index).float(), self.scales.read(index).float()
        if index is not None:
            codes, scales = codes[0], scales[0]
        block = self.block or (codes.shape[0], codes.shape[1])
        for part, scale in in_blocks(codes, scales, block):
            part *= scale
        return codes


def take(settings: Mapping[str, Any], stored: dict[str, StoredTensor]) -> dict[str, Encoded]:
    """Weights in this format, by name. Takes their parts out of `stored`. Raises `Refused`."""
    block = settings.get("weight_block_size", BLOCK)
    found: dict[str, Encoded] = {}
    for key in [key for key in stored if key.endswith(SCALES)]:
        name = key.removesuffix(SCALES)
        scales = stored.pop(key)
        codes = stored.pop(name, None)
        if codes is None:
            raise Refused(f"{scales.file}: {key} is there without {name}")
        found[name] = _encoded(codes, scales, block)
    for key in [key for key in stored if found and key.endswith(ACTIVATIONS)]:
        del stored[key]
    return found


def _encoded(codes: StoredTensor, scales: StoredTensor, block: Any) -> BlockFp8:
    if len(codes.shape) not in (2, 3) or codes.dtype != "F8_E4M3":
        raise Refused(
            f"{codes.file}: {codes.key} is {codes.dtype} {list(codes.shape)}; fp8 needs F8_E4M3 "
            "with 2 dimensions, or 3 where experts are together"
        )
    *lead, num_out, num_in = codes.shape
    if block is None:
        single = [(*lead, 1, 1)] if lead else [(), (1,), (1, 1)]
        check_part(scales, "fp8 without blocks", SCALE_DTYPES, *single)
        return BlockFp8(codes, scales, None)
    if not _is_block(block):
        raise Refused(f"{codes.file}: blocks of {block!r} are not two positive numbers")
    rows, columns = block
    wanted = (*lead, -(-num_out // rows), -(-num_in // columns))
    check_part(scales, f"fp8 in blocks of {rows} × {columns}", SCALE_DTYPES, wanted)
    return BlockFp8(codes, scales, (rows, columns))


def _is_block(block: Any) -> bool:
    return (
        isinstance(block, list | tuple)
        and len(block) == 2
        and all(isinstance(size, int) and size > 0 for size in block)
    )
