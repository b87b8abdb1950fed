"""`bench tenants`: its options. Measures nothing, words no result."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app.cli.bench import files
from serve_app.cli.bench.axes import chosen
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.shown import show, stages


def tenants(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            show_default=False,
            help="A row to measure. Repeat for more. Default: all.",
        ),
    ] = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Measure what tenants do to each other, and what it costs to keep them apart.

    Takes up to 5 minutes. Uses the CPU, bfloat16 and random weights. Linux only.
    The exit code is 0 even if a bar is not met. See docs/benchmarks.md.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.tenants.tenants_benchmark import ROWS, tenants_result
    from serve_app.bench.tenants.tenants_terminal import terminal

    rows = chosen(only, ROWS, hint="--only")
    with stages() as on_progress:
        result = tenants_result(rows, on_progress)
    show(terminal(result))
    files.write(result, json_file, html_file)
