"""What every format of a part can say of itself. One file beside this one is one format.

An expert is a sum of parts: one slot, and any number of residuals. A format says everything about
the tensors of a part, so parts of one format stack. It knows no bytes of another format, chooses no
value and touches no file.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Self

import torch

from representation.formats.shape import ExpertShape

TensorSpec = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of one tensor."""

Tensors = Mapping[str, torch.Tensor]
"""The tensors of one part, by name."""

SCALE_DTYPE = torch.bfloat16

SAFETENSORS_NAMES = {
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
}
"""In the order in which the safetensors format puts tensors into a file."""

NUMBER = re.compile(r"[1-9]\d*")


Colour = Literal["blue", "green", "grey", "orange", "purple", "sky", "vermillion", "yellow"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a report calls an expert that is held so, and in which colour it shows it."""

    name: str
    colour: Colour


@dataclass(frozen=True, slots=True)
class Format(ABC):
    """How one part of an expert is held. Its fields are the numbers of its label, in order.

    Formats compare by kind, then by their numbers. Raises `ValueError` for numbers that make none.
    """

    kind: ClassVar[str]
    """The first word of its labels."""
    spelling: ClassVar[str]
    """Its labels, as people are told them."""
    shared_slot: ClassVar[Look | None] = None
    """A slot of several experts; None where a slot cannot be in this format."""
    own_slot: ClassVar[Look | None] = None
    """A slot of one expert; None where a slot cannot be in this format."""
    residual: ClassVar[Look | None] = None
    """An expert with such a residual; None where a residual cannot be in this format."""
    replaces: ClassVar[bool] = False
    """Whether a residual stands in for weights of a dense slot, and not what is added to them."""

    @classmethod
    def stands_as(cls, *, residual: bool) -> bool:
        """Whether a residual, or a slot, may be in this format."""
        return (cls.residual if residual else cls.own_slot) is not None

    @classmethod
    def of_words(cls, words: list[str]) -> Self | None:
        """The format of the words of a label behind its kind; None where they are not its own."""
        names = [field.name for field in fields(cls)]
        if len(words) != len(names) or not all(map(NUMBER.fullmatch, words)):
            return None
        return cls(*map(int, words))

    def __str__(self) -> str:
        """The label, as a manifest spells it."""
        return "-".join([self.kind, *map(str, self._numbers())])

    def __lt__(self, other: "Format") -> bool:
        return (self.kind, self._numbers()) < (other.kind, other._numbers())

    def _numbers(self) -> tuple[int, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    @abstractmethod
    def matrix_specs(
        self, shape: ExpertShape, name: str, dtype: torch.dtype
    ) -> dict[str, TensorSpec]:
        """The tensors that stand for one matrix, by name. `dtype` is the family's."""

    @abstractmethod
    def decode(self, tensors: Tensors, name: str, shape: ExpertShape) -> torch.Tensor:
        """What a part adds to a matrix. -> (O, I) float32"""

    def onto(
        self, total: torch.Tensor, tensors: Tensors, name: str, shape: ExpertShape
    ) -> torch.Tensor:
        """A matrix so far, with what a residual does to it. total: (O, I) float32  ->  (O, I)"""
        return total + self.decode(tensors, name, shape)

    def vector_onto(self, total: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """A vector so far, with what a residual does to it. float32"""
        return total + vector

    def vector_dtype(self, dtype: torch.dtype, *, residual: bool) -> torch.dtype:
        """In which a part has its vectors: a slot as they are, a residual what is added."""
        return torch.float32 if residual else dtype

    @abstractmethod
    def operations(self, num_outputs: int, num_columns: int) -> int:
        """Multiplications and additions of one token through one matrix."""

    @abstractmethod
    def short(self, dtype: torch.dtype) -> str:
        """A few letters for a cell of a table: bits per weight, or a rank."""

    @abstractmethod
    def words(self, dtype: torch.dtype) -> str:
        """What it is, for a row of a table."""

    def lies_by_columns(self, tensor: str) -> bool:
        """Whether a device holds a tensor of a part column by column."""
        return False

    def tensor_specs(
        self, shape: ExpertShape, dtype: torch.dtype, *, residual: bool
    ) -> dict[str, TensorSpec]:
        """The tensors of a part's blob, by name. `dtype` is the family's.

        shape: of the matrices that the part is for. Their vectors are in every part.
        """
        found: dict[str, TensorSpec] = {}
        for name in shape.matrices:
            found |= self.matrix_specs(shape, name, dtype)
        for name in shape.vectors:
            kind = self.vector_dtype(dtype, residual=residual)
            found[name] = (tuple(shape.parameters[name]), kind)
        return found

    def num_bytes(self, shape: ExpertShape, dtype: torch.dtype, *, residual: bool) -> int:
        """Bytes of a part's tensors, on the device as in the file."""
        specs = self.tensor_specs(shape, dtype, residual=residual)
        return sum(_size(spec) for spec in specs.values())

    def file_bytes(self, shape: ExpertShape, dtype: torch.dtype, *, residual: bool) -> int:
        """Bytes of the safetensors file that a part becomes, exactly; nothing is encoded for it.

        A file is the header's length in 8 bytes, the header as JSON filled up with spaces to a
        multiple of 8, and the tensors: by alignment first, then by name.
        """
        order = list(SAFETENSORS_NAMES)
        specs = self.tensor_specs(shape, dtype, residual=residual).items()
        header: dict[str, object] = {}
        end = 0
        for name, spec in sorted(specs, key=lambda item: (order.index(item[1][1]), item[0])):
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
