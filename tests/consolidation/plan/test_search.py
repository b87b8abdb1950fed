import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.plan.search import CLOSE, MAX_TRIALS, fewest_bytes, first_trial

LEAST, MOST = 1_000, 100_000


class Release:
    """A family whose divergence falls with bytes; counts how often it is measured."""

    def __init__(self, divergence: Callable[[int], float]) -> None:
        self._divergence = divergence
        self.tried: list[int] = []

    def measure(self, num_bytes: int) -> float:
        assert LEAST <= num_bytes < MOST, "a trial outside of what there is"
        assert num_bytes not in self.tried, "the same trial twice"
        self.tried.append(num_bytes)
        return self._divergence(num_bytes)


def falling(at_least: float, steepness: float) -> Callable[[int], float]:
    """From `at_least` at the fewest bytes; none from the most on."""

    def divergence(num_bytes: int) -> float:
        if num_bytes >= MOST:
            return 0.0
        return at_least * math.exp(-steepness * (num_bytes - LEAST) / (MOST - LEAST))

    return divergence


@given(st.floats(1e-4, 10.0), st.floats(2.0, 25.0), st.floats(0.05, 20.0))
@settings(deadline=None)
def test_a_prediction_off_by_a_factor_is_corrected(
    target: float, steepness: float, off: float
) -> None:
    true = falling(5.0, steepness)
    release = Release(true)
    found = fewest_bytes(target, LEAST, MOST, lambda n: off * true(n), release.measure)
    assert len(release.tried) <= MAX_TRIALS
    reaching = next((n for n in range(LEAST, MOST, 50) if true(n) <= target), MOST)
    # Aimed a little below the target, found to a thousandth.
    aimed = next((n for n in range(LEAST, MOST, 50) if true(n) <= CLOSE * target), MOST)
    assert found <= max(aimed, reaching) + MOST // 500


@given(
    st.floats(1e-4, 10.0),
    st.lists(st.floats(0.1, 10.0), min_size=8, max_size=8),
    st.floats(2.0, 25.0),
)
@settings(deadline=None)
def test_what_is_found_was_measured_to_reach_the_target_or_is_everything(
    target: float, off: list[float], steepness: float
) -> None:
    true = falling(5.0, steepness)

    def predict(num_bytes: int) -> float:  # wrong by another factor everywhere, but falling
        places = range(LEAST, num_bytes + 1, MOST // 8)
        return min(true(n) * off[min(i, 7)] for i, n in enumerate(places))

    release = Release(true)
    found = fewest_bytes(target, LEAST, MOST, predict, release.measure)
    assert len(release.tried) <= MAX_TRIALS
    assert found == MOST or (found in release.tried and true(found) <= target)
    assert all(n >= found for n in release.tried if true(n) <= target)


def test_a_target_that_the_fewest_bytes_reach_takes_one_trial() -> None:
    true = falling(0.5, 3.0)
    release = Release(true)
    found = fewest_bytes(1.0, LEAST, MOST, true, release.measure)
    assert LEAST <= found <= LEAST + MOST // 1000
    assert release.tried == [found]


def test_a_target_that_nothing_but_everything_reaches_gives_everything() -> None:
    release = Release(lambda _: 1.0)
    assert fewest_bytes(0.01, LEAST, MOST, falling(5.0, 10.0), release.measure) == MOST
    assert len(release.tried) == MAX_TRIALS
    assert release.tried == sorted(release.tried)


def test_where_predictions_are_of_no_use_the_middle_is_tried() -> None:
    true = falling(5.0, 10.0)
    for useless in (lambda _: 0.0, lambda n: 9.0 if n < MOST else 0.0):
        release = Release(true)
        found = fewest_bytes(0.1, LEAST, MOST, useless, release.measure)
        reaching = next(n for n in range(LEAST, MOST) if true(n) <= 0.1)
        assert reaching <= found <= reaching + MOST // 16


def test_where_nothing_is_lost_nothing_is_made_right() -> None:
    release = Release(lambda _: 0.0)
    found = fewest_bytes(0.1, LEAST, MOST, falling(5.0, 10.0), release.measure)
    assert found < LEAST + MOST // 64
    assert fewest_bytes(0.1, LEAST, LEAST, lambda _: 0.0, release.measure) == LEAST


def test_the_first_trial_is_where_a_little_less_than_the_target_is_predicted() -> None:
    true = falling(5.0, 10.0)
    first = first_trial(0.1, LEAST, MOST, true)
    assert true(first) <= 0.095 < true(first - MOST // 500)
    release = Release(true)
    fewest_bytes(0.1, LEAST, MOST, true, release.measure)
    assert release.tried[0] == first


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_few_bytes_apart_every_number_can_be_found(gap: int) -> None:
    tried: list[int] = []

    def measure(num_bytes: int) -> float:
        tried.append(num_bytes)
        return 1.0 if num_bytes < 10 + gap else 0.01

    found = fewest_bytes(0.5, 10, 10 + gap + 1, lambda n: 2.0 if n < 10 else 0.4, measure)
    assert found == 10 + gap
