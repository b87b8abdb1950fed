"""Turns what clients saw into rows of a table: passed, refused as expected, or failed."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.clients.refusals import Refusal

PASSED, REFUSED, FAILED = "passed", "refused", "FAILED"
_WIDTH = 110


@dataclass(frozen=True)
class Verdict:
    """reason: why it was refused, or why it failed."""

    client: str
    call: str
    result: str
    reason: str
    seconds: float


def verdicts(lines: Iterable[Mapping[str, Any]], refusals: Sequence[Refusal]) -> list[Verdict]:
    """lines: as `calling` writes them. What is to be refused and was not has failed too."""
    expected = {(each.client, each.call): each for each in refusals}
    return [_verdict(line, expected.pop((line["client"], line["call"]), None)) for line in lines]


def _verdict(line: Mapping[str, Any], refusal: Refusal | None) -> Verdict:
    result, reason = PASSED, ""
    error, said = line["error"], line["said"]
    if refusal is None and error is not None:
        result, reason = FAILED, f"{error}: {said}"
    elif refusal is not None and error is None:
        result, reason = FAILED, "it is on the list of refusals, and was answered"
    elif refusal is not None and (error != refusal.error or refusal.says not in said):
        result, reason = FAILED, f"refused otherwise than the list says: {error}: {said}"
    elif refusal is not None:
        result, reason = REFUSED, refusal.reason
    return Verdict(line["client"], line["call"], result, reason, line["seconds"])


def unasked(lines: Iterable[Mapping[str, Any]], refusals: Sequence[Refusal]) -> list[Refusal]:
    """Those of the clients that were asked which no call is about."""
    asked = {(line["client"], line["call"]) for line in lines}
    clients = {client for client, _ in asked}
    return [
        each
        for each in refusals
        if each.client in clients and (each.client, each.call) not in asked
    ]


def table(rows: Sequence[Verdict]) -> str:
    """A line for each call, and below it the reason."""
    widest = max((len(row.call) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.result:9}{row.client:20}{row.call:{widest}}{row.seconds:>8.2f}")
        lines += textwrap.wrap(
            row.reason[:1000], _WIDTH, initial_indent=" " * 11, subsequent_indent=" " * 11
        )
    counts = {name: sum(row.result == name for row in rows) for name in (PASSED, REFUSED, FAILED)}
    said = ", ".join(f"{number} {name.lower()}" for name, number in counts.items())
    return "\n".join([*lines, "", said])
