"""`bench bars`: every bar that is stated for speed, and whether it holds here."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app.cli.bench import files
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.shown import show, stages


def bars(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", show_default=False, help="A bar to measure; may be repeated."
        ),
    ] = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Measure each bar and say whether it holds. Minutes; the exit code is 0 whatever holds.

    On the CPU, in bfloat16, on random weights of the shape mixtral-115m: see docs/benchmarks.md.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.bars.bars import BARS, bars_result
    from serve_app.bench.bars.bars_terminal import terminal

    for name in only or ():
        if name not in BARS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(BARS)}", param_hint="--only")
    with stages() as on_progress:
        result = bars_result(only or list(BARS), on_progress)
    show(terminal(result))
    files.write(result, json_file, html_file)
