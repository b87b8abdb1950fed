"""Waits and rates as the cells of a table, on the terminal and on a page. Measures nothing."""

from collections.abc import Mapping
from typing import Any

from representation.decimals import plain
from serve_app.bench.result.sections import Table

MEASURES = {
    "turnaround, s": ("turnaround_s", 1.0),
    "queue wait, s": ("queue_s", 1.0),
    "first token, s": ("ttft_s", 1.0),
    "per token, ms": ("tpot_s", 1e3),
}
"""What is shown, where to find it in `outcomes.numbers`, and the factor to its unit."""
STATISTICS = ("mean", "p50", "p90", "p99")
WORDS = "Waits are counted from a request's arrival."


def table(noun: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every measure of every row. found: by the row's name, as `outcomes.numbers` returns them."""
    return Table("", ["", noun, *STATISTICS], _cells(found), left=2)


def _cells(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for words, (name, scale) in MEASURES.items():
        for position, (row, numbers) in enumerate(found.items()):
            values = numbers[name] or {}
            shown = [plain(values[one] * scale) if values else "–" for one in STATISTICS]
            rows.append(["" if position else words, row, *shown])
    return rows


def rate(numbers: Mapping[str, Any]) -> str:
    """Tokens of answers per second."""
    found = numbers["answer_tokens_per_s"]
    return "–" if found is None else f"{found:,.1f}"


def client_words(client: Mapping[str, Any]) -> str:
    """Whether the client may have influenced the figures."""
    late = client["lateness_s"]
    sent = "" if late is None else f"1 % sent {late['p99'] * 1e3:.1f} ms late or later, "
    return f"client: {sent}{client['processor_share']:.1%} of a core"
