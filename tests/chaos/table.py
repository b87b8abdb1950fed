"""Rows as a table for people and as JSON. Judges nothing."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serve_app.bench.result.environment import Environment
from tests.chaos.fault import Row
from tests.chaos.ledger import Kind

COLUMNS = (Kind.RIGHT, Kind.WRONG, Kind.REFUSED, Kind.ENDED, Kind.CUT, Kind.LOST, Kind.HUNG)
WIDTH = 110


def table(rows: Sequence[Row]) -> str:
    """A line for each fault, and below it what was found and why it failed."""
    width = max((len(row.name) for row in rows), default=0)
    head = f"{'':8}{'fault':{width}}{'s':>8}{'healthy':>9}" + "".join(f"{k:>9}" for k in COLUMNS)
    lines = [head]
    for row in rows:
        verdict = "passed" if row.passed else "FAILED"
        healthy = "-" if row.healthy_s is None else f"{row.healthy_s:.1f}"
        numbers = "".join(f"{row.requests[kind]:>9}" for kind in COLUMNS)
        lines.append(f"{verdict:8}{row.name:{width}}{row.seconds:>8.1f}{healthy:>9}{numbers}")
        said = [f"{name} {_shown(value)}" for name, value in row.found.items()]
        said += [f"{number} {reason}" for reason, number in row.reasons.items()]
        said += [row.why] if row.why else []
        for one in said:
            lines += textwrap.wrap(one, WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 12)
    return "\n".join(lines)


def exit_code(rows: Sequence[Row]) -> int:
    return int(not all(row.passed for row in rows))


def as_json(rows: Sequence[Row], environment: Environment) -> dict[str, Any]:
    return {
        "kind": "chaos",
        "environment": asdict(environment),
        "seconds": sum(row.seconds for row in rows),
        "rows": [{**asdict(row), "touched": row.touched} for row in rows],
    }


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
