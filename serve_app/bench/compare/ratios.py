"""Each arm's numbers divided by those of another, as values and as a table. Runs no arm."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.bench.result.sections import Table

RATIOS_TO = ("single", "isolated", "llama.cpp", "llama.cpp-q8_0", "llama.cpp-q4_0")
"""The other arms are compared with these, where they took part."""
COLUMNS = {
    "tokens/s": "answer_tokens_per_s",
    "turnaround": "turnaround_s_mean",
    "its p99": "turnaround_s_p99",
    "first token": "ttft_s_mean",
    "per token": "tpot_s_mean",
    "bytes": "device_bytes",
}
"""What is shown of an arm's numbers over another's; there are more in the JSON."""


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Of every arm's numbers to those of the arms in `RATIOS_TO`, where there are such numbers."""
    by_name = {row["arm"]: _numbers(row) for row in rows}
    return {
        other: {
            name: {
                measure: value / by_name[other][measure]
                for measure, value in own.items()
                if by_name[other].get(measure)
            }
            for name, own in by_name.items()
        }
        for other in RATIOS_TO
        if other in by_name
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    numbers = row["all"]
    found = {"device_bytes": float(row["device_bytes"])}
    for measure in ("turnaround_s", "queue_s", "ttft_s", "tpot_s"):
        if numbers[measure] is not None:
            found |= {f"{measure}_{which}": value for which, value in numbers[measure].items()}
    if numbers["answer_tokens_per_s"] is not None:
        found["answer_tokens_per_s"] = numbers["answer_tokens_per_s"]
    return found


def table(caption: str, noun: str, by_arm: Mapping[str, Mapping[str, float]]) -> Table:
    """Arms and their ratios to another one, a row each."""
    cells = [
        [
            name,
            *(f"{own[measure]:.2f}" if measure in own else "–" for measure in COLUMNS.values()),
        ]
        for name, own in by_arm.items()
    ]
    return Table(caption, [noun, *COLUMNS], cells)
