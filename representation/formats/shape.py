"""Names and shapes of one expert's parameters. Not how a part of it is stored: formats say that."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass


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

    @property
    def num_weights(self) -> int:
        """Weights of all matrices."""
        return sum(math.prod(self.parameters[name]) for name in self.matrices)

    def only(self, matrices: Collection[str]) -> "ExpertShape":
        """The shape of a part that is for these matrices and their vectors; all where empty."""
        if not matrices:
            return self
        names = {*matrices, *(f"{name}_bias" for name in matrices)}
        found = {name: size for name, size in self.parameters.items() if name in names}
        return ExpertShape(found, self.transposed)

    def matrix(self, name: str) -> tuple[int, int]:
        """(O, I) of a matrix, whichever way round the module has it."""
        rows, columns = self.parameters[name]
        return (columns, rows) if self.transposed else (rows, columns)
