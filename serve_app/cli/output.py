"""What the commands print: tables, sizes, one JSON object. Knows no command."""

from __future__ import annotations

import json
import math
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from representation.decimals import plain
from serve_app.units import in_utc, size

if TYPE_CHECKING:
    from representation.step_reads import DecodeStep


def out() -> Console:
    """For results, on the current stdout, even if that is redirected later. What is printed stands
    there as it is: `[a]` is no markup, and `:x:` no emoji.
    """
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def err() -> Console:
    """For progress and errors, on stderr. See `out`."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: dict[str, Any]) -> None:
    """`value` as the one JSON object on stdout."""
    sys.stdout.write(_as_json(value))


def write_json(file: Path, value: dict[str, Any]) -> None:
    """`value` as the one JSON object in a file."""
    file.write_text(_as_json(value), encoding="utf-8")


def _as_json(value: dict[str, Any]) -> str:
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """`value` for JSON: times as ISO text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value


def table(*columns: str, left: int = 1, title: str | None = None) -> Table:
    """An empty table: the first `left` columns hold words, the others numbers."""
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        is_text = index < left
        grid.add_column(
            name,
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            header_style="dim",
        )
    return grid


def age(at: str | datetime, now: datetime) -> str:
    """How long ago `at` (ISO time or datetime) was: `3 min`."""
    then = in_utc(datetime.fromisoformat(at) if isinstance(at, str) else at)
    seconds = max(0.0, (now - then).total_seconds())
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / divisor)} {unit}"
    return f"{int(seconds / 86400)} d"


def change(before: int, after: int) -> str:
    """Bytes before and after: `4.00 GiB → 1.50 GiB`."""
    return f"{size(before)} → {size(after)}"


def decode_step(step: DecodeStep, num_models: int) -> str:
    """What is in a step of all models: `16 sequences, 4 for each model`."""
    return f"{num_models * step.sequences} sequences, {step.sequences} for each model"


def counted(number: int, noun: str) -> str:
    """`1 finding`, `2 findings`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def quality_cells(quality: dict[str, Any] | None) -> tuple[str, str]:
    """KL divergence (nats per token) and perplexity of original → release, as table cells."""
    if quality is None:
        return "not measured", "not measured"
    original, release = quality["perplexity_original"], quality["perplexity_release"]
    return plain(quality["kl"]), f"{original:.3f} → {release:.3f}"
