import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.arithmetic import tree as tree_module
from consolidation.arithmetic.tree import Matrix, centred_gram, merge_tree


def gram_of(points: Matrix) -> Matrix:
    centred = points - points.mean(0)
    return np.asarray(centred @ centred.T)


def square_error(points: Matrix, counts: Sequence[int], parts: Sequence[Sequence[int]]) -> float:
    total = 0.0
    for part in parts:
        weights = np.array([counts[i] for i in part], dtype=float)
        chosen = points[list(part)]
        mean = (weights[:, None] * chosen).sum(0) / weights.sum()
        total += float((weights[:, None] * (chosen - mean) ** 2).sum())
    return total


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(deadline=None)
def test_costs_are_increases_of_the_sum_of_squared_errors(seed: int, num: int) -> None:
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(num, 3))
    counts = [int(n) for n in generator.integers(1, 4, size=num)]
    parts: dict[int, list[int]] = {i: [i] for i in range(num)}
    before = 0.0
    tree = merge_tree(gram_of(points), counts)
    assert len(tree) == num - 1
    for position, merge in enumerate(tree):
        # Greedy: no other pair of clusters would have cost less.
        after = {
            pair: square_error(
                points,
                counts,
                [p for k, p in parts.items() if k not in pair] + [parts[pair[0]] + parts[pair[1]]],
            )
            for pair in itertools.combinations(sorted(parts), 2)
        }
        parts[num + position] = parts.pop(merge.one) + parts.pop(merge.other)
        now = square_error(points, counts, list(parts.values()))
        assert math.isclose(now, min(after.values()), rel_tol=1e-9, abs_tol=1e-9)
        assert math.isclose(now - before, merge.cost, rel_tol=1e-6, abs_tol=1e-9)
        before = now


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4, unique=True))
@settings(deadline=None)
def test_well_separated_pairs_are_merged_as_the_best_partition_would(
    offsets: list[float],
) -> None:
    points = np.array([[offsets[0]], [100 + offsets[1]], [offsets[2]], [100 + offsets[3]]])
    tree = merge_tree(gram_of(points), [1, 1, 1, 1])
    assert {(m.one, m.other) for m in tree[:2]} == {(0, 2), (1, 3)}


def test_experts_without_difference_in_value_merge_for_nothing() -> None:
    points = np.array([[0.0], [0.0], [1.0]])  # -0.0 and 0.0, say: other bytes, the same weights
    tree = merge_tree(gram_of(points), [2, 1, 1])
    assert (tree[0].one, tree[0].other) == (0, 1)
    assert tree[0].cost == pytest.approx(0.0, abs=1e-12)


def test_inner_products_are_taken_around_the_mean_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.randn(5, 70, generator=torch.Generator().manual_seed(0)) + 100
    whole = centred_gram(rows)
    assert np.allclose(whole, gram_of(rows.double().numpy()))
    monkeypatch.setattr(tree_module, "BLOCK_BYTES", 8 * 5 * 16)
    assert np.allclose(centred_gram(rows), whole, rtol=1e-12)


def test_points_that_look_like_distances_are_points() -> None:
    points = np.array([[0.0, 3.0, 0.0], [3.0, 0.0, 4.0], [0.0, 4.0, 0.0]])
    assert len(merge_tree(points @ points.T, [1, 1, 1])) == 2
    assert len(merge_tree(np.array([[1.0, -1.0], [-1.0, 1.0]]), [1, 1])) == 1


def test_one_expert_has_no_tree() -> None:
    assert merge_tree(np.zeros((1, 1)), [3]) == []
