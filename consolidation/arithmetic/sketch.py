"""What a difference costs, whole and beyond its first factors, from one look at it. Makes no parts.

The factors are those of a randomised decomposition without power iterations (Halko, Martinsson &
Tropp, 2011, algorithm 4.1): good enough to choose a rank by, not to store. What lies beyond them is
estimated by test vectors of its own, so no product of a difference with moments is needed. All that
one metric takes is prepared once, for all differences that it weighs.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from consolidation.arithmetic.decomposition import EXTRA, row_roots
from consolidation.arithmetic.factors import Factors
from consolidation.arithmetic.metric import Metric, from_blocks, in_blocks

TESTS = 16
"""Vectors that what lies beyond the factors is estimated by: to some percent."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """A difference in the eyes of a metric.

    tails: cost of what the first 0, 1, … r factors leave.   taken: by how much those factors lessen
    its spread.
    """

    tails: tuple[float, ...]
    taken: tuple[float, ...]

    def scaled(self, factor: float) -> "Sketch":
        """Of the difference times a number."""
        square = factor * factor
        return Sketch(tuple(square * t for t in self.tails), tuple(square * t for t in self.taken))


def powers(matrix: torch.Tensor, group: int) -> torch.Tensor:
    """Mean squares of each row's groups of columns. (O, I) -> (O, ceil(I / group))"""
    missing = -matrix.shape[1] % group
    padded = torch.nn.functional.pad(matrix, (0, missing)) if missing else matrix
    norms: torch.Tensor = torch.linalg.vector_norm(padded.unflatten(1, (-1, group)), dim=2)
    return norms.square_().div_(_sizes(norms[0], matrix.shape[1], group))


def _sizes(groups: torch.Tensor, num_columns: int, group: int) -> torch.Tensor:
    """How many columns each group has. groups: (G,), for its shape alone -> (G,)"""
    sizes = torch.full_like(groups, group)
    sizes[-1] -= -num_columns % group
    return sizes


class Sketcher:
    """A metric of one matrix (O, I), prepared for weighing many differences.

    What only differences need is made when the first one comes: many experts are seen alone.
    spreads: (G,), by group of columns, the sum of what rounding with feedback leaves of an error.
    """

    def __init__(self, metric: Metric, max_rank: int, group: int) -> None:
        """max_rank: of factors; the shape limits it too.   group: columns that share a scale."""
        self.metric = metric
        num_rows, num_columns = len(metric.gain), metric.num_columns
        self._max_rank = min(max_rank, num_rows, num_columns)
        self._width = min(max_rank + EXTRA, num_rows, num_columns)
        self._row_roots = row_roots(metric)[:, None]  # (O, 1)
        self._roots = metric.roots()  # (B, b, b)
        by_column = metric.spreads_of(self._roots)  # (I,)
        missing = -num_columns % group
        grouped = torch.nn.functional.pad(by_column, (0, missing)).unflatten(0, (-1, group))
        self.spreads = grouped.sum(1)  # (G,)
        evenly = self.spreads / _sizes(self.spreads, num_columns, group)
        self._by_column = evenly.repeat_interleave(group)[:num_columns]  # (I,)

    @cached_property
    def _vectors(self) -> torch.Tensor:
        """Random vectors, of which the last `TESTS` are for tests. (I, w + t)"""
        num_columns = self.metric.num_columns
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(num_columns, self._width + TESTS, generator=generator)
        blocks = in_blocks(vectors.to(self._roots.device).T, num_columns)  # (B, w + t, b)
        # The roots, not their transposes, multiply differences: so their transposes multiply these.
        return from_blocks(blocks @ self._roots.transpose(1, 2), num_columns).T

    @cached_property
    def _gradients(self) -> torch.Tensor | None:
        """Those of the samples, over the roots of rows. (n, O)"""
        samples = self.metric.samples
        return None if samples is None else samples.gradients / self._row_roots.T

    def spread(self, mean_squares: torch.Tensor) -> float:
        """The spread of what has these `powers`: what rounding it costs is in proportion to it."""
        return float((self.metric.gain @ mean_squares) @ self.spreads)

    def of(self, difference: torch.Tensor, known: Factors | None = None) -> Sketch:
        """Weigh a difference, (O, I) float32. known: factors that it is the product of."""
        basis, rest = self._basis(difference) if known is None else self._known(known)
        inside = (basis * self._row_roots).T @ difference  # (w, I)
        scaled = in_blocks(inside, self.metric.num_columns) @ self._roots  # (B, w, b)
        scaled = scaled.transpose(0, 1).flatten(1).double()  # (w, B * b)
        squares, turns = torch.linalg.eigh(scaled @ scaled.T)  # by rising size
        squares, turns = squares.flip(0).clamp_min(0.0), turns.flip(1).float()
        tails = rest + torch.cat([squares, squares.new_zeros(1)]).flip(0).cumsum(0).flip(0)
        tails = _fit(tails, self._max_rank + 1)
        turns = _fit(turns, self._max_rank)
        factors = turns.T @ inside  # (r, I)
        taken = (factors.square() @ self._by_column).double().cumsum(0)  # (r,)
        samples = self.metric.samples
        if samples is not None and self._gradients is not None:
            whole = samples.responses(difference)  # (n,)
            parts = (self._gradients @ (basis @ turns)) * (samples.inputs @ factors.T)  # (n, r)
            left = whole[:, None] - torch.nn.functional.pad(parts.cumsum(1), (1, 0))  # (n, r + 1)
            tails = self.metric.untrusted * tails + left.double().square().sum(0)
        return Sketch(tuple(tails.tolist()), (0.0, *taken.tolist()))

    def _basis(self, difference: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The first directions of a difference's columns, and the cost of all others. -> (O, w)"""
        seen = (difference @ self._vectors) * self._row_roots  # (O, w + t)
        basis = torch.linalg.qr(seen[:, : self._width]).Q  # (O, w)
        tests = seen[:, self._width :]  # (O, t)
        beyond = tests - basis @ (basis.T @ tests)
        return basis, float(beyond.double().square().sum()) / TESTS

    def _known(self, factors: Factors) -> tuple[torch.Tensor, float]:
        """All directions of a product's columns, beyond which nothing lies. -> (O, r)"""
        return torch.linalg.qr(factors.left * self._row_roots).Q, 0.0


def _fit(values: torch.Tensor, size: int) -> torch.Tensor:
    """Cut the last dimension, or fill it with zeros, to a size."""
    cut = values[..., :size]
    return torch.nn.functional.pad(cut, (0, size - cut.shape[-1]))
