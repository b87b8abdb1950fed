"""In which formats a part of an expert is held, and its exact bytes. Touches no tensor.

An expert is a sum of parts: one slot, and any number of residuals. `dense` is the tensors as they
are. `packed` is codes of a few bits, one scale for every output row and group of input features,
at symmetric half-step levels: value = (code - (2^bits - 1) / 2) * scale. `rank` is two factors.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

MAX_BITS = 8
SCALE_DTYPE = torch.bfloat16
LABEL = re.compile(r"dense|packed-([1-9]\d*)-([1-9]\d*)|rank-([1-9]\d*)")

TensorSpec = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of one tensor."""

SAFETENSORS_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
}
"""In the order in which the safetensors format puts tensors into a file."""


@dataclass(frozen=True, slots=True, order=True)
class Format:
    """How one part of an expert is held. Raises `ValueError` for numbers that make no format."""

    kind: Literal["dense", "packed", "rank"]
    bits: int = 0
    group: int = 0
    rank: int = 0

    def __post_init__(self) -> None:
        is_packed, is_rank = self.kind == "packed", self.kind == "rank"
        if not (1 <= self.bits <= MAX_BITS if is_packed else self.bits == 0):
            raise ValueError(f"format {str(self)!r}: bits are 1 to {MAX_BITS} where it is packed")
        if not (self.group >= 1 if is_packed else self.group == 0):
            raise ValueError(f"format {str(self)!r}: groups have at least one input feature")
        if not (self.rank >= 1 if is_rank else self.rank == 0):
            raise ValueError(f"format {str(self)!r}: a rank is at least 1")

    def __str__(self) -> str:
        """The label, as a manifest spells it."""
        if self.kind == "packed":
            return f"packed-{self.bits}-{self.group}"
        return f"rank-{self.rank}" if self.kind == "rank" else self.kind

    @classmethod
    def parse(cls, label: str) -> "Format":
        """The format of a label. Raises `ValueError`, naming a label that is none."""
        found = LABEL.fullmatch(label)
        if found is None:
            raise ValueError(
                f"format {label!r} is none of dense, packed-<bits>-<group> and rank-<rank>"
            )
        bits, group, rank = found.groups()
        if bits is not None:
            return packed(int(bits), int(group))
        return DENSE if rank is None else low_rank(int(rank))

    @property
    def planes(self) -> tuple[int, ...]:
        """Widths in bits of the planes that codes are split into, widest first; 3 is 2 and 1."""
        return tuple(width for width in (8, 4, 2, 1) if self.bits & width)


DENSE = Format("dense")


def packed(bits: int, group: int) -> Format:
    """Codes of `bits` bits, a scale for every `group` input features of an output row."""
    return Format("packed", bits=bits, group=group)


def low_rank(rank: int) -> Format:
    """A product of two factors of this rank."""
    return Format("rank", rank=rank)


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """Names and shapes of one expert's parameters, without the expert dimension.

    Matrices are (O, I), O output features; where the module is `transposed` its own are (I, O).
    Raises `ValueError` for a parameter that is neither a matrix nor a vector.
    """

    parameters: Mapping[str, tuple[int, ...]]
    transposed: bool

    def __post_init__(self) -> None:
        for name, shape in self.parameters.items():
            if len(shape) not in (1, 2):
                raise ValueError(f"parameter {name} is {list(shape)}: neither matrix nor vector")

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the matrices, in the module's order."""
        return tuple(name for name, shape in self.parameters.items() if len(shape) == 2)

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the vectors (biases), in the module's order."""
        return tuple(name for name, shape in self.parameters.items() if len(shape) == 1)

    def matrix(self, name: str) -> tuple[int, int]:
        """(O, I) of a matrix, whichever way round the module has it."""
        rows, columns = self.parameters[name]
        return (columns, rows) if self.transposed else (rows, columns)


def tensor_specs(
    shape: ExpertShape, fmt: Format, dtype: torch.dtype, *, residual: bool
) -> dict[str, TensorSpec]:
    """The tensors of a part's blob, by name. `dtype` is the family's.

    Vectors are in every part: in a slot as they are, in a residual as a float32 difference.
    """
    found: dict[str, TensorSpec] = {}
    for name in shape.matrices:
        num_rows, num_columns = shape.matrix(name)
        if fmt.kind == "dense":
            found[name] = (tuple(shape.parameters[name]), dtype)
        elif fmt.kind == "rank":
            found[f"{name}.left"] = ((num_rows, fmt.rank), dtype)
            found[f"{name}.right"] = ((fmt.rank, num_columns), dtype)
        else:
            for width in fmt.planes:
                num_bytes_row = math.ceil(num_columns * width / 8)
                found[plane_name(name, width)] = ((num_rows, num_bytes_row), torch.uint8)
            num_groups = math.ceil(num_columns / fmt.group)
            found[f"{name}.scales"] = ((num_rows, num_groups), SCALE_DTYPE)
    for name in shape.vectors:
        found[name] = (tuple(shape.parameters[name]), torch.float32 if residual else dtype)
    return found


def plane_name(parameter: str, width: int) -> str:
    """What the plane of a width is called inside a blob."""
    return f"{parameter}.plane{width}"


def num_bytes(shape: ExpertShape, fmt: Format, dtype: torch.dtype, *, residual: bool) -> int:
    """Bytes of a part's tensors, on the device as in the file."""
    specs = tensor_specs(shape, fmt, dtype, residual=residual)
    return sum(_size(spec) for spec in specs.values())


def file_bytes(shape: ExpertShape, fmt: Format, dtype: torch.dtype, *, residual: bool) -> int:
    """Bytes of the safetensors file that a part becomes, exactly; nothing is encoded for it.

    A file is the header's length in 8 bytes, the header as JSON filled up with spaces to a
    multiple of 8, and the tensors: by alignment first, then by name.
    """
    order = list(SAFETENSORS_NAMES)
    specs = tensor_specs(shape, fmt, dtype, residual=residual)
    header: dict[str, object] = {}
    end = 0
    for name, spec in sorted(specs.items(), key=lambda item: (order.index(item[1][1]), item[0])):
        begin, end = end, end + _size(spec)
        header[name] = {
            "dtype": SAFETENSORS_NAMES[spec[1]],
            "shape": list(spec[0]),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + math.ceil(len(text) / 8) * 8 + end


def _size(spec: TensorSpec) -> int:
    return math.prod(spec[0]) * spec[1].itemsize
