import itertools
import math
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.arithmetic.frontier import Point, frontier, least_sum, spend, steps, total

Points = list[Point[str]]


def points_of(values: Sequence[tuple[int, int]]) -> Points:
    """Whole numbers: sums are exact."""
    return [Point(size, float(error), f"{i}") for i, (size, error) in enumerate(values)]


many = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=7).map(
    points_of
)
several = st.lists(many, min_size=1, max_size=4)


def sums(lists: Sequence[Points]) -> list[Point[tuple[str, ...]]]:
    """Every choice of one of each."""
    return [
        Point(
            sum(p.num_bytes for p in chosen),
            math.fsum(p.error for p in chosen),
            tuple(p.choice for p in chosen),
        )
        for chosen in itertools.product(*lists)
    ]


def least_error(points: Sequence[Point[tuple[str, ...]]], allowed: int) -> float:
    return min(p.error for p in points if p.num_bytes <= allowed)


def gains_of(points: Sequence[Point[str]]) -> list[float]:
    pairs = itertools.pairwise(points)
    return [(a.error - b.error) / (b.num_bytes - a.num_bytes) for a, b in pairs]


def test_corners_are_kept_and_what_lies_above_them_is_not() -> None:
    given_points = points_of([(0, 10), (2, 9), (4, 2), (5, 2), (8, 0), (6, 1), (4, 3), (9, 0)])
    assert [p.choice for p in frontier(given_points)] == ["0", "2", "4"]
    assert frontier(points_of([(3, 1), (3, 1)]))[0].choice == "0"
    assert frontier(()) == ()


@given(many)
def test_a_frontier_is_convex_and_below_all_points(points: Points) -> None:
    found = frontier(points)
    assert set(found) <= set(points)
    assert found[0].num_bytes == min(p.num_bytes for p in points)
    assert found[-1].error == min(p.error for p in points)
    gains = gains_of(found)
    assert all(gain > 0 for gain in gains)
    assert all(one > other for one, other in itertools.pairwise(gains))
    # At every price of a byte the cheapest point is one of them.
    for price in [0.0, 0.01, *gains, 0.5, 1.0, 3.0, 70.0]:
        cheapest = min(p.error + price * p.num_bytes for p in points)
        assert math.isclose(
            cheapest, min(p.error + price * p.num_bytes for p in found), rel_tol=1e-12, abs_tol=1e-9
        )
    assert frontier(found) == found


@given(several)
@settings(deadline=None)
def test_the_frontier_of_sums_is_the_hull_of_all_sums(lists: list[Points]) -> None:
    found = total([frontier(points) for points in lists])
    everything = sums(lists)
    expected = frontier(everything)
    assert [(p.num_bytes, p.error) for p in found] == [(p.num_bytes, p.error) for p in expected]
    assert set(found) <= set(everything)


@given(several)
def test_steps_come_by_what_they_save_and_in_the_order_of_each_frontier(
    lists: list[Points],
) -> None:
    frontiers = [frontier(points) for points in lists]
    found = steps(frontiers)
    gains = [gain for gain, _ in found]
    assert gains == sorted(gains, reverse=True)
    for which, points in enumerate(frontiers):
        own = [gain for gain, place in found if place == which]
        assert own == gains_of(points)


def bytes_of(lists: Sequence[Points], choices: Sequence[str]) -> int:
    return sum(points[int(c)].num_bytes for points, c in zip(lists, choices, strict=True))


def error_of(lists: Sequence[Points], choices: Sequence[str]) -> float:
    return sum(points[int(c)].error for points, c in zip(lists, choices, strict=True))


@given(several)
@settings(deadline=None)
def test_at_the_corners_of_the_hull_nothing_is_better(lists: list[Points]) -> None:
    frontiers = [frontier(points) for points in lists]
    everything = sums(lists)
    for corner in frontier(everything):
        found = spend(frontiers, corner.num_bytes, lambda chosen: bytes_of(lists, chosen))
        assert found is not None
        assert bytes_of(lists, found) <= corner.num_bytes
        assert error_of(lists, found) == corner.error == least_error(everything, corner.num_bytes)


@given(several, st.integers(0, 5))
@settings(deadline=None)
def test_nothing_goes_over_and_more_bytes_are_never_worse(
    lists: list[Points], overhead: int
) -> None:
    frontiers = [frontier(points) for points in lists]
    corners = frontier(sums(lists))

    def num_bytes(chosen: Sequence[str]) -> int:
        return overhead + bytes_of(lists, chosen)

    errors = []
    least = corners[0].num_bytes + overhead
    for allowed in range(least, corners[-1].num_bytes + overhead + 3):
        found = spend(frontiers, allowed, num_bytes)
        assert found is not None
        assert num_bytes(found) <= allowed
        errors.append(error_of(lists, found))
        assert errors[-1] <= min(c.error for c in corners if c.num_bytes + overhead <= allowed)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == corners[-1].error
    assert spend(frontiers, least - 1, num_bytes) is None


def test_a_step_that_does_not_fit_does_not_stop_others() -> None:
    lists = [points_of([(0, 100), (50, 0)]), points_of([(0, 10), (10, 1), (30, 0)])]
    frontiers = [frontier(points) for points in lists]
    assert spend(frontiers, 40, lambda chosen: bytes_of(lists, chosen)) == ("0", "2")
    assert spend(frontiers, 29, lambda chosen: bytes_of(lists, chosen)) == ("0", "1")


def test_bytes_that_choices_take_together_are_what_counts() -> None:
    lists = [points_of([(0, 9), (10, 0)]), points_of([(0, 8), (10, 0)])]
    frontiers = [frontier(points) for points in lists]

    def together(chosen: Sequence[str]) -> int:
        return bytes_of(lists, chosen) + (7 if chosen[0] == "1" else 0)

    assert spend(frontiers, 16, together) == ("0", "1")
    assert spend(frontiers, 17, together) == ("1", "0")
    assert spend(frontiers, 27, together) == ("1", "1")


@given(several, st.integers(0, 250))
def test_nothing_within_bytes_has_less_error_than_the_sum_of_hulls(
    lists: list[Points], allowed: int
) -> None:
    bound = least_sum([frontier(points) for points in lists], allowed)
    fitting = [point for point in sums(lists) if point.num_bytes <= allowed]
    assert (bound == math.inf) == (not fitting)
    assert all(bound <= point.error + 1e-9 for point in fitting)


def test_between_corners_the_least_error_lies_on_the_hull() -> None:
    hulls = [points_of([(0, 10), (4, 2)]), points_of([(0, 5), (10, 0)])]
    assert [least_sum(hulls, allowed) for allowed in (0, 2, 4, 9, 20)] == [15, 11, 7, 4.5, 2]
