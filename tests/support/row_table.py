"""Results as a table for people and as JSON. Judges nothing."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serve_app.bench.result.environment import Environment
from tests.support.row import Result

WIDTH = 110
_VERDICTS = {True: "passed", False: "FAILED", None: "skipped"}


def table(results: Sequence[Result]) -> str:
    """A line for each row, and below it the bar, what was seen, and why it failed."""
    width = max((len(result.name) for result in results), default=0)
    lines = []
    for result in results:
        lines.append(
            f"{_VERDICTS[result.passed]:8}{result.name:{width}}{result.seconds:>8.1f} s"
            f"  wanted: {result.bar}"
        )
        said = [f"{name}: {_shown(value)}" for name, value in result.seen.items()]
        said += [result.why] if result.why else []
        for one in said:
            lines += textwrap.wrap(one, WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 12)
    return "\n".join(lines)


def exit_code(results: Sequence[Result]) -> int:
    """1 if a row failed; one that was skipped did not."""
    return int(any(result.passed is False for result in results))


def as_json(kind: str, results: Sequence[Result], environment: Environment) -> dict[str, Any]:
    return {
        "kind": kind,
        "environment": asdict(environment),
        "rows": [asdict(result) for result in results],
    }


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
