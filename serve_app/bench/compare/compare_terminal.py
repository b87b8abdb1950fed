"""The results of several arms, for the terminal. Prints nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from representation.decimals import plain
from serve_app.bench.compare import ratios
from serve_app.bench.requests import waits
from serve_app.bench.requests.workload import LONG_S
from serve_app.bench.result.result import Result
from serve_app.bench.result.sections import Table, TerminalPart, Trouble
from serve_app.units import size


def terminal(result: Result) -> list[TerminalPart]:
    """Arms left out, the requests, numbers of each arm and ratios, clients, then problems."""
    rows, facts = result.rows, result.facts
    found: list[TerminalPart] = [
        *(Trouble(words) for words in skipped_words(facts)),
        *_asked(facts, result.settings["duration_s"]),
        _arms(rows),
        "",
        waits.table("arm", {row["arm"]: row["all"] for row in rows}),
        waits.WORDS,
    ]
    for other, by_arm in facts["ratios"].items():
        found += ["", ratios.table("", f"÷ {other}", by_arm)]
    found.append("")
    for row in rows:
        own = "".join(f", {name} {plain(value)}" for name, value in row["facts"].items())
        found.append(f"{row['arm']}: {waits.client_words(row['client'])}{own}")
    for row in rows:
        found += [Trouble(f"warning: {row['arm']}: {words}") for words in row["warnings"]]
        found += [Trouble(f"{row['arm']} lost: {error}") for error in row["errors"]]
    return found


def asked_words(facts: Mapping[str, Any], duration_s: float | None) -> str:
    """How many requests came at which rate, and what share of an arm's capacity that is."""
    if "rate" not in facts:
        return f"{facts['requests']} requests, all at once"
    words = f"{facts['requests']} requests over {duration_s:g} s, {facts['rate']:.2f} a second"
    if "capacity" not in facts:
        return words
    taken = f"the {facts['capacity']:.2f} that {facts['capacity_of']} can sustain"
    return f"{words}, {facts['load']:.0%} of {taken}"


def skipped_words(facts: Mapping[str, Any]) -> list[str]:
    """A line for each reason for which arms were left out."""
    by_reason: dict[str, list[str]] = {}
    for name, why in facts["skipped"].items():
        by_reason.setdefault(why, []).append(name)
    return [f"skipped: {', '.join(names)}: {why}" for why, names in by_reason.items()]


def _asked(facts: Mapping[str, Any], duration_s: float | None) -> list[str]:
    found = [asked_words(facts, duration_s)]
    if facts.get("arrivals_are_short"):
        found.append(f"arrivals over less than {LONG_S:g} s say little about waiting")
    if facts["num_cut"]:
        found.append(f"{facts['num_cut']} requests were cut to fit a context")
    return found


def _arms(rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = [
        [
            row["arm"],
            str(row["all"]["lost"]),
            waits.rate(row["all"]),
            "–" if row["jain"] is None else f"{row['jain']:.3f}",
            size(row["device_bytes"]),
        ]
        for row in rows
    ]
    return Table("", ["arm", "lost", "tokens/s", "Jain", "device"], cells)
