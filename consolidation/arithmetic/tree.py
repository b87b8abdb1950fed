"""Finds the closest experts: inner products of their weights, and Ward's tree over them.

Cost is the increase of the sum of squared errors over all experts when each is replaced by the
mean of its cluster (Ward, 1963); an expert that several models share counts as often as they use
it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import ward_tree

BLOCK_BYTES = 16 << 20
"""Size of a block in float64; its products take a few times as much for a moment."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Merge:
    """Joins two nodes into one. Leaves are the distinct experts, the i-th merge is node D + i."""

    one: int
    other: int
    cost: float


def centred_gram(rows: torch.Tensor) -> Matrix:
    """Inner products of rows around their mean: (D, n) -> (D, D), in float64.

    Reads the rows in blocks. Only distances between experts are used, which do not depend on the
    centre; around the mean they lose less to rounding.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in _blocks(rows.shape[1], len(rows)):
        part = rows[:, block].double()  # (D, b)
        part -= part.mean(0)
        gram += part @ part.T
    return cast(Matrix, gram.cpu().numpy())


def merge_tree(gram: Matrix, counts: Sequence[int]) -> list[Merge]:
    """Ward's tree over D experts, each there `counts` times. gram: (D, D) -> D - 1 merges

    Costs never fall from a node to the one above it, so applying merges in order of cost, and of
    position where costs are equal, never uses a node before it is made.
    """
    if len(counts) < 2:
        return []
    # What is the same for all changes no distance; without it, points may look like distances.
    points = np.pad(embed(gram), ((0, 0), (0, 1)), constant_values=1.0)
    copies = np.repeat(np.arange(len(counts)), counts)
    children, _, _, _, distances = ward_tree(points[copies], return_distance=True)
    # scikit-learn gives sqrt(2 * increase); node len(copies) + i is its i-th merge.
    steps = zip(children.tolist(), (np.square(distances) / 2).tolist(), strict=True)
    return _without_copies(copies.tolist(), steps, len(counts))


def embed(gram: Matrix) -> Matrix:
    """Points with the inner products `gram`: exact, as a Gram matrix has no negative eigenvalue.

    gram: (D, D) -> (D, D)
    """
    values, vectors = np.linalg.eigh(gram)
    return np.asarray(vectors * np.sqrt(np.clip(values, 0.0, None)), dtype=np.float64)


def _without_copies(
    copies: list[int], steps: Iterator[tuple[list[int], float]] | Any, num_distinct: int
) -> list[Merge]:
    """The tree over distinct experts that corresponds to a tree over all experts."""
    made: list[Merge] = []
    above = list(range(num_distinct))  # the node that each node has become part of
    floor = [0.0] * num_distinct

    def top(node: int) -> int:
        while above[node] != node:
            node = above[node]
        return node

    members = list(copies)  # a distinct node inside each node of the tree over all experts
    for (left, right), cost in steps:
        one, other = sorted((top(members[left]), top(members[right])))
        members.append(members[left])
        if one == other:
            continue
        node = num_distinct + len(made)
        cost = max(float(cost), floor[one], floor[other])
        made.append(Merge(one, other, cost))
        above[one] = above[other] = node
        above.append(node)
        floor.append(cost)
    return made


def _blocks(length: int, num_rows: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (8 * num_rows))
    for start in range(0, length, size):
        yield slice(start, start + size)
