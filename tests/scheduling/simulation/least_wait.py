"""The waits that no order of requests can go below, from arrivals and prompts alone."""

from collections.abc import Sequence as Items

from tests.scheduling.simulation.arena import STEP_S, TOKEN_S
from tests.scheduling.simulation.contenders import STEP_TOKENS
from tests.scheduling.simulation.traffic import Asked

TOKENS_PER_S = STEP_TOKENS / (STEP_S + TOKEN_S * STEP_TOKENS)
"""The most that steps can take."""


def least_wait(asked: Items[Asked], share: float) -> float:
    """What the wait of this share of the requests is at least, whatever goes first. In seconds.

    Take the requests that come in some span of time, without those that may wait longer: at most
    the ones with the longest prompts. If each has its first token within w seconds, all of their
    prompts are computed by w after the end of the span, and steps take only so many tokens a
    second. Answers and loads are left out.   asked: in order of arrival.
    """
    may_be_late = len(asked) - int(share * len(asked)) - 1
    late = sum(sorted((one.prompt for one in asked), reverse=True)[:may_be_late])
    least, before, tokens = 0.0, 0.0, 0
    for one in asked:
        done = TOKENS_PER_S * one.at
        before = min(before, tokens - done)  # at the best beginning of the span
        tokens += one.prompt
        least = max(least, tokens - done - before - late)
    return least / TOKENS_PER_S
