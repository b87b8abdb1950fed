"""The fewest bytes that reach a divergence, by a few trials. Pure: builds and measures nothing.

What is foretold rises and falls with what is measured, so each trial sets the foretold right by
the factor that the last one was off, and the next is where that says.
"""

from collections.abc import Callable

MAX_TRIALS = 6
CLOSE = 0.85
"""A divergence of at least so much of the target is close enough: a bit less of it is few bytes."""
AIM = 0.95
"""Trials aim a little below the target, or half of them would miss it."""


def fewest_bytes(
    target: float,
    least: int,
    most: int,
    foretell: Callable[[int], float],
    measure: Callable[[int], float],
) -> int:
    """The fewest bytes tried whose measured divergence is at most the target; else `most`.

    `foretell` tells the error expected within so many bytes, and never grows with them; from
    `most` bytes on there is none. `measure` carries a trial out.
    """
    best, failed = most, least - 1
    factor = 1.0
    for _ in range(MAX_TRIALS):
        if best - failed <= _fineness(most):
            break
        tried = _reaching(AIM * target / factor, least, most, foretell)
        if not failed < tried < best:  # What is foretold has been shown wrong there.
            tried = (failed + best) // 2
        measured = measure(tried)
        if measured > target:
            failed = tried
        else:
            best = tried
            if measured >= CLOSE * target:
                break
        expected = foretell(tried)
        if expected > 0 and measured > 0:
            factor = measured / expected
    return best


def first_trial(target: float, least: int, most: int, foretell: Callable[[int], float]) -> int:
    """The bytes that a search would try first."""
    return _reaching(AIM * target, least, most, foretell)


def _reaching(error: float, least: int, most: int, foretell: Callable[[int], float]) -> int:
    """The fewest bytes, to a thousandth, at which no more than this error is foretold."""
    low, high = least - 1, most  # foretell(high) is at most the error, as far as is known
    while high - low > _fineness(most):
        middle = (low + high) // 2
        if foretell(middle) <= error:
            high = middle
        else:
            low = middle
    return high


def _fineness(most: int) -> int:
    """Bytes that make no difference."""
    return max(1, most // 1000)
