"""`bench bars`: every speed target, and whether this machine meets it."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app.cli.bench import files
from serve_app.cli.bench.axes import chosen
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.shown import show, stages


def bars(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            show_default=False,
            help="A target to measure. Repeat for more. Default: all.",
        ),
    ] = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Measure every speed target and say whether this machine meets it.

    Takes up to 15 minutes. Uses the CPU, bfloat16 and random weights.
    The exit code is 0 even if a target is not met. See docs/benchmarks.md.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.bars.bar_list import BARS
    from serve_app.bench.bars.bars import bars_result
    from serve_app.bench.bars.bars_terminal import terminal

    rows = chosen(only, BARS, hint="--only")
    with stages() as on_progress:
        result = bars_result(rows, on_progress)
    show(terminal(result))
    files.write(result, json_file, html_file)
