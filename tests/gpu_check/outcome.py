"""What became of each check, as rows, a table and JSON. Knows no check."""

import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serve_app.bench.result.environment import Environment

FOUND_WIDTH = 90
"""Characters of a line of what a check found."""


class NeedsCudaError(Exception):
    """Only a CUDA device can do this."""


@dataclass(frozen=True)
class Row:
    """outcome: passed, failed or skipped.   found: figures.   why: it failed or was skipped."""

    name: str
    outcome: str
    seconds: float
    found: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def row_of(
    name: str,
    check: Callable[[], Mapping[str, Any]],
    clock: Callable[[], float] = time.monotonic,
) -> Row:
    """Run a check, which returns what it found, or raises."""
    began = clock()
    outcome, found, why = "passed", {}, ""
    try:
        found = dict(check())
    except NeedsCudaError:
        outcome, why = "skipped", "needs CUDA"
    except Exception as error:  # noqa: BLE001 - the other rows are to be run all the same
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome = "failed"
        why = f"{type(error).__name__} at {where.filename}:{where.lineno}: {error}"
    return Row(name, outcome, clock() - began, found, why)


def table(rows: Sequence[Row]) -> str:
    """A line for each row, then why some failed."""
    width = max((len(row.name) for row in rows), default=0)
    lines = []
    for row in rows:
        head = f"{row.outcome:8}{row.seconds:7.1f} s  {row.name:{width}}  "
        said = "skipped: " + row.why if row.outcome == "skipped" else _said(row.found)
        first, *more = textwrap.wrap(said, FOUND_WIDTH) or [""]
        lines.append((head + first).rstrip())
        lines += [" " * len(head) + line for line in more]
    lines += [f"\n{row.name}: {row.why}" for row in rows if row.outcome == "failed"]
    return "\n".join(lines)


def exit_code(rows: Sequence[Row]) -> int:
    return int(any(row.outcome == "failed" for row in rows))


def as_json(rows: Sequence[Row], environment: Environment) -> dict[str, Any]:
    return {
        "kind": "gpu-check",
        "environment": asdict(environment),
        "seconds": sum(row.seconds for row in rows),
        "rows": [asdict(row) for row in rows],
    }


def _said(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in found.items())


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
