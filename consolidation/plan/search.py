"""The fewest bytes that reach a divergence, by a few trials. Pure: builds and measures nothing.

Predicted and measured divergence rise and fall together. So each trial corrects the prediction by
the factor that it was off, and the next trial is where the corrected prediction meets the target.
"""

from collections.abc import Callable

MAX_TRIALS = 6
CLOSE = 0.85
"""A divergence of at least this share of the target is close enough: closer saves few bytes."""
AIM = 0.95
"""Trials aim at this share of the target, or half of them would miss it."""


def fewest_bytes(
    target: float,
    least: int,
    most: int,
    predict: Callable[[int], float],
    measure: Callable[[int], float],
) -> int:
    """The fewest bytes tried whose measured divergence is at most the target; else `most`.

    `predict` gives the error expected within a number of bytes; it never grows with them and is 0
    from `most` bytes on. `measure` carries out a trial.
    """
    best, failed = most, least - 1
    factor = 1.0
    for _ in range(MAX_TRIALS):
        if best - failed <= _fineness(most):
            break
        tried = _reaching(AIM * target / factor, least, most, predict)
        if not failed < tried < best:  # The prediction was shown wrong there.
            tried = (failed + best) // 2
        measured = measure(tried)
        if measured > target:
            failed = tried
        else:
            best = tried
            if measured >= CLOSE * target:
                break
        expected = predict(tried)
        if expected > 0 and measured > 0:
            factor = measured / expected
    return best


def first_trial(target: float, least: int, most: int, predict: Callable[[int], float]) -> int:
    """The bytes that a search tries first."""
    return _reaching(AIM * target, least, most, predict)


def _reaching(error: float, least: int, most: int, predict: Callable[[int], float]) -> int:
    """The fewest bytes, to a thousandth, with at most this predicted error."""
    low, high = least - 1, most  # predict(high) is at most the error, as far as is known
    while high - low > _fineness(most):
        middle = (low + high) // 2
        if predict(middle) <= error:
            high = middle
        else:
            low = middle
    return high


def _fineness(most: int) -> int:
    """A difference in bytes too small to matter."""
    return max(1, most // 1000)
