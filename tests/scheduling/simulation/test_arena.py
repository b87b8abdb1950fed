"""The scheduler beside first come first served and strict grouping by model, at scale."""

from collections import Counter
from pathlib import Path

import pytest

from tests.scheduling.simulation.__main__ import all_traffic, compare, lost_to_fairness
from tests.scheduling.simulation.arena import Arena, percentile
from tests.scheduling.simulation.contenders import FirstComeFirstServed, Ours
from tests.scheduling.simulation.least_wait import TOKENS_PER_S, least_wait
from tests.scheduling.simulation.traffic import TRACES, Asked, made_up, traced


def test_requests_wait_less_than_in_order_of_arrival_and_hardly_a_token_is_lost() -> None:
    """A short run, which begins with empty places; the slow one has the whole bar."""
    ratio, lost = against_order_of_arrival(made_up(900, 11.0))
    assert ratio <= 0.6
    assert lost <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("traffic", ["made up", "conv"])
def test_requests_wait_half_as_long_as_in_order_of_arrival(traffic: str) -> None:
    found = dict(all_traffic())
    if traffic not in found:
        pytest.skip(f"there is no trace in {TRACES}")
    ratio, lost = against_order_of_arrival(found[traffic])
    assert ratio <= 0.5
    assert lost <= 0.05


def against_order_of_arrival(asked: list[Asked]) -> tuple[float, float]:
    """The ratio of the longest waits (p99), and the share of tokens per second that is lost."""
    outcomes = compare(asked)
    p99 = {name: percentile(outcome.waits, 0.99) for name, outcome in outcomes.items()}
    return p99["Ours"] / p99["FirstComeFirstServed"], lost_to_fairness(outcomes)


def test_a_tenant_that_sends_ten_times_as_much_to_ten_models_is_served_no_more() -> None:
    loud = [Asked(0.0, "loud", f"m{number % 10}", 50, 100) for number in range(600)]
    quiet = [Asked(0.0, "quiet", "m0", 50, 100) for _ in range(60)]
    fair, unfair = (
        Arena(contender, loud + quiet, window_s=1.0).run()
        for contender in (Ours(), FirstComeFirstServed())
    )
    assert fair.jain is not None
    assert unfair.jain is not None
    assert fair.jain >= 0.98
    assert unfair.jain <= 0.6


def test_no_order_waits_less_than_prompts_take() -> None:
    """A hundred prompts at once after a first one, of which one may be late: 99 take 990 units."""
    unit = TOKENS_PER_S / 10
    asked = [Asked(0.0, "t", "m0", int(10 * unit), 5)]
    asked += [Asked(100.0, f"t{n}", "m0", int(10 * unit), 5) for n in range(100)]
    assert least_wait(asked, 0.99) == pytest.approx(99.0, rel=1e-3)
    assert least_wait(asked, 0.5) == pytest.approx(50.0, rel=1e-3)
    for contender in (Ours(), FirstComeFirstServed()):
        outcome = Arena(contender, crowd := made_up(300, 80.0)).run()
        for share in (0.5, 0.99):
            assert percentile(outcome.waits, share) >= least_wait(crowd, share)
    assert least_wait(crowd, 0.99) > 1


def test_made_up_traffic_is_skewed_and_comes_in_bursts() -> None:
    asked = made_up(2_000, 10.0)
    by_tenant = Counter(one.tenant for one in asked)
    assert by_tenant["flood"] == 200
    assert len(by_tenant) > 300
    by_second = Counter(int(one.at) for one in asked)
    counts = sorted(by_second.values())
    assert counts[-1] >= 3 * counts[len(counts) // 2]
    assert made_up(2_000, 10.0) == asked


def test_a_trace_keeps_its_lengths_and_its_bursts_at_the_rate_that_is_asked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.9799600,7,0\n"
        "2023-11-16 18:17:07.9799600,110,27\n"
    )
    asked = traced(path, 3, per_second=1.5)
    assert [one.at for one in asked] == pytest.approx([0.0, 0.5, 2.0])
    assert [(one.prompt, one.answer) for one in asked] == [(4_000, 10), (7, 1), (110, 27)]
