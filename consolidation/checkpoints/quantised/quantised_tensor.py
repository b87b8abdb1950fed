"""A tensor that a checkpoint stores in few bits, read as a plain one. Knows no format."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from consolidation.checkpoints.tensor_file import DTYPES, StoredTensor
from consolidation.errors import Refused

SCALE_DTYPES = frozenset({"F32", "BF16", "F16", "F8_E8M0"})


class Encoded(Protocol):
    """Where the parts of a weight lie, and the formula that gives its values.

    `label` says in which format, for people.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that is read: a matrix, or the matrices of all experts."""

    @property
    def label(self) -> str:
        """The format, for people."""

    @property
    def is_transposed(self) -> bool:
        """Whether what is decoded is the transposed of what is read."""

    @property
    def parts(self) -> Sequence[StoredTensor]:
        """All that decoding reads."""

    def decode(self, index: int | None) -> torch.Tensor:
        """One matrix, in float32: that of an expert, or all there is where `index` is None."""


@dataclass(frozen=True, slots=True)
class QuantisedTensor:
    """A weight in few bits, which is read in `dtype`. Its bytes are those of what is read."""

    key: str
    dtype: str
    encoded: Encoded

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that is read."""
        return self.encoded.shape

    @property
    def num_bytes(self) -> int:
        """Of the tensor that is read."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self, index: int | None = None) -> torch.Tensor:
        """The tensor, rounded once to its dtype; with `index`, only `tensor[index : index + 1]`.

        Decodes a matrix at a time. Raises `Refused` when a file cannot be read.
        """
        shape = self.shape
        if len(shape) == 2:
            matrix = self._matrix(None)
            return matrix if index is None else matrix[index : index + 1]
        indices = range(shape[0]) if index is None else [index]
        tensor = torch.empty((len(indices), *shape[1:]), dtype=DTYPES[self.dtype])
        for place, number in enumerate(indices):
            tensor[place] = self._matrix(number)
        return tensor

    def _matrix(self, index: int | None) -> torch.Tensor:
        matrix = self.encoded.decode(index).to(DTYPES[self.dtype])
        return matrix.T if self.encoded.is_transposed else matrix

    def read_ahead(self) -> None:
        """Have the system read all parts into its page cache meanwhile. Holds no memory."""
        for part in self.encoded.parts:
            part.read_ahead()

    def meta(self, index: int | None = None) -> torch.Tensor:
        """A tensor without data, of the shape and dtype that `read` would give."""
        shape = self.shape if index is None else (1, *self.shape[1:])
        return torch.empty(shape, dtype=DTYPES[self.dtype], device="meta")


def check_part(
    stored: StoredTensor, what: str, dtypes: Collection[str], *shapes: tuple[int, ...]
) -> None:
    """Raise `Refused` unless a part has one of these dtypes and one of these shapes."""
    if stored.dtype not in dtypes or stored.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise Refused(
            f"{stored.file}: {stored.key} is {stored.dtype} {list(stored.shape)}; "
            f"{what} needs {' or '.join(sorted(dtypes))} {wanted}"
        )


def values_of_nibbles(
    packed: torch.Tensor, values: torch.Tensor, *, high_first: bool
) -> torch.Tensor:
    """Look up two codes of 4 bits a byte.

    packed: (..., n) uint8   values: (16,) float32   ->  (..., 2 n) float32
    """
    codes = torch.arange(256)
    pair = (codes >> 4, codes & 15) if high_first else (codes & 15, codes >> 4)
    table = torch.stack([values[code] for code in pair], 1)  # (256, 2)
    found = table.index_select(0, packed.int().flatten())  # (… · n, 2)
    return found.view(*packed.shape[:-1], -1)  # (…, 2 n)


def in_blocks(
    matrix: torch.Tensor, values: torch.Tensor, block: tuple[int, int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Parts of a matrix, to be changed in place, with one value for each of its blocks.

    The last blocks may be smaller. matrix: (O, I)   values: (⌈O / rows⌉, ⌈I / columns⌉), or as many
    ->  (O, n, columns) with (O, n, 1), and what is left of the columns: (O, rest) with (O, 1)
    """
    rows, columns = block
    values = values.reshape(-(-matrix.shape[0] // rows), -1)
    values = values.repeat_interleave(rows, 0)[: matrix.shape[0]]  # (O, ⌈I / columns⌉)
    full, rest = divmod(matrix.shape[1], columns)
    yield matrix[:, : full * columns].unflatten(1, (full, columns)), values[:, :full, None]
    if rest:
        yield matrix[:, full * columns :], values[:, full:]
