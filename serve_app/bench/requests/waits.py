"""Waits and rates as the cells of a table, on the terminal and on a page. Measures nothing."""

from collections.abc import Mapping
from typing import Any

MEASURES = {
    "turnaround, s": ("turnaround_s", 1.0),
    "queue wait, s": ("queue_s", 1.0),
    "first token, s": ("ttft_s", 1.0),
    "per token, ms": ("tpot_s", 1e3),
}
"""What is shown, where it is in `outcomes.numbers`, and its unit in the measured one."""
STATISTICS = ("mean", "p50", "p90", "p99")
WORDS = "Waits are counted from a request's arrival."


def cells(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Of every measure of every row: measure, row, statistics.

    found: by the row's name, as `outcomes.numbers` gives them.
    """
    rows = []
    for words, (name, scale) in MEASURES.items():
        for position, (row, numbers) in enumerate(found.items()):
            values = numbers[name] or {}
            shown = [f"{values[one] * scale:.3g}" if values else "–" for one in STATISTICS]
            rows.append(["" if position else words, row, *shown])
    return rows


def rate(numbers: Mapping[str, Any]) -> str:
    """Tokens of answers a second."""
    found = numbers["answer_tokens_per_s"]
    return "–" if found is None else f"{found:,.1f}"


def client_words(client: Mapping[str, Any]) -> str:
    """Whether what was measured is the server's doing or the client's."""
    late = client["lateness_s"]
    sent = "" if late is None else f"1 % sent {late['p99'] * 1e3:.1f} ms late or later, "
    return f"client: {sent}{client['processor_share']:.1%} of a core"


RATIOS = {
    "tokens/s": "answer_tokens_per_s",
    "turnaround": "turnaround_s_mean",
    "its p99": "turnaround_s_p99",
    "first token": "ttft_s_mean",
    "per token": "tpot_s_mean",
    "bytes": "device_bytes",
}
"""What is shown of an arm's numbers over another's; there are more in the JSON."""


def ratio_cells(by_arm: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """An arm and its ratios to another one, a row each."""
    return [
        [
            name,
            *(f"{own[measure]:.2f}" if measure in own else "–" for measure in RATIOS.values()),
        ]
        for name, own in by_arm.items()
    ]
