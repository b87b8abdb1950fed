"""Matches the neurons of two experts that lie in different orders. Reads no file, merges nothing.

An expert computes the same when its hidden neurons change order: rows of the first matrix and of
its biases, and columns of the second. So experts are matched neuron by neuron: first those that
choose each other, then the rest by an optimal assignment.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from consolidation.arithmetic.metric import Metric
from consolidation.arithmetic.weights import Weights
from representation.layout import Layout

LAST = "down_proj"
SKETCH = 48
CHECKS = 16
"""More directions, that the nearest were not chosen by: in them, strangers are as far as others."""
STRANGE = 0.6
"""The squared distance over the squares of both from which neurons are strangers: theirs is 1."""
MAX_ASSIGNED = 2048
"""The most neurons that are assigned optimally, which takes cubic time."""


def fingerprint(weights: Weights, layout: Layout) -> torch.Tensor:
    """Sorted norms of neurons, which do not depend on their order. -> (N,)"""
    first = torch.linalg.vector_norm(_by_neuron(weights.matrices[_first(weights)], layout), dim=1)
    last = torch.linalg.vector_norm(weights.matrices[LAST], dim=0)
    found: torch.Tensor = torch.hypot(first, last).sort().values
    return found


def match(reference: Weights, other: Weights, layout: Layout) -> torch.Tensor | None:
    """For each neuron of the reference, the matching neuron of the other. -> (N,) or None"""
    return match_sketches(sketch(reference, layout), sketch(other, layout))


def match_sketches(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """The same of two `sketch`es.

    None where neurons that choose each other are strangers all the same, or too few do for a match
    to mean anything.
    """
    ours, theirs = reference[:, :SKETCH], other[:, :SKETCH]
    nearest = _nearest(ours, theirs)
    back = _nearest(theirs, ours)
    order = torch.full((len(ours),), -1, device=ours.device)
    mutual = back[nearest] == torch.arange(len(ours), device=ours.device)
    order[mutual] = nearest[mutual]
    ours_checked, theirs_checked = reference[mutual, SKETCH:], other[order[mutual], SKETCH:]
    squares = float(ours_checked.square().sum() + theirs_checked.square().sum())
    if float((ours_checked - theirs_checked).square().sum()) > STRANGE * squares:
        return None
    open_places = torch.where(~mutual)[0]
    if len(open_places) > MAX_ASSIGNED:
        return None
    if len(open_places):
        taken = torch.zeros(len(theirs), dtype=torch.bool, device=theirs.device)
        taken[order[mutual]] = True
        free = torch.where(~taken)[0]
        cost = torch.cdist(ours[open_places].double(), theirs[free].double()).square()
        rows, columns = (
            torch.from_numpy(np.asarray(one)).to(ours.device)
            for one in linear_sum_assignment(cost.cpu().numpy())
        )
        order[open_places[rows]] = free[columns]
    return order


def reorder(weights: Weights, order: torch.Tensor, layout: Layout) -> Weights:
    """The same expert with its neurons in another order: the i-th becomes neuron `order[i]`."""
    first = _first(weights)
    rows = _rows(order, layout)
    matrices = dict(weights.matrices)
    matrices[first] = matrices[first][rows]
    matrices[LAST] = matrices[LAST][:, order]
    vectors = dict(weights.vectors)
    if f"{first}_bias" in vectors:
        vectors[f"{first}_bias"] = vectors[f"{first}_bias"][rows]
    return Weights(matrices, vectors)


def reorder_metric(name: str, metric: Metric, order: torch.Tensor, layout: Layout) -> Metric:
    """The metric of a matrix of an expert whose neurons have been reordered."""
    if name == LAST:
        return metric.permuted(None, order)
    return metric.permuted(_rows(order, layout), None)


def _first(weights: Weights) -> str:
    (name,) = [name for name in weights.matrices if name != LAST]
    return name


def _rows(order: torch.Tensor, layout: Layout) -> torch.Tensor:
    if layout == "halves":
        return torch.cat([order, order + len(order)])
    if layout == "pairs":
        return torch.stack([2 * order, 2 * order + 1], dim=1).flatten()
    return order


def _by_neuron(first: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The rows of the first matrix that belong to each neuron, side by side. -> (N, features)"""
    if layout == "halves":
        return torch.cat(first.chunk(2), dim=1)
    found: torch.Tensor = first.unflatten(0, (-1, 2)).flatten(1) if layout == "pairs" else first
    return found


def sketch(weights: Weights, layout: Layout) -> torch.Tensor:
    """A projection that nearly keeps the distances between neurons. -> (N, SKETCH + CHECKS)"""
    first = _by_neuron(weights.matrices[_first(weights)], layout)
    last = weights.matrices[LAST].T
    generator = torch.Generator().manual_seed(0)
    num_features = first.shape[1] + last.shape[1]
    # The same on every device.
    directions = torch.randn(num_features, SKETCH + CHECKS, generator=generator).to(first.device)
    found: torch.Tensor = first @ directions[: first.shape[1]]
    return found.add_(last @ directions[first.shape[1] :])


def _nearest(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """For each of ours the nearest of theirs, computed a part at a time to bound memory."""
    return torch.cat([torch.cdist(part, theirs).argmin(1) for part in ours.split(1024)])
