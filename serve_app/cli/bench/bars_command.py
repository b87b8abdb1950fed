"""`bench bars`: every bar that is stated for speed, and whether it holds here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import output
from serve_app.cli.bench import files
from serve_app.cli.bench.files import HtmlFile, JsonFile

if TYPE_CHECKING:
    from serve_app.bench.result.result import Result


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
    from consolidation.run.executor import Progress
    from serve_app.bench.bars.bars import BARS, MEASURES, NUM_MODELS, measure_bars
    from serve_app.bench.result.environment import environment
    from serve_app.bench.result.result import Result

    for name in only or ():
        if name not in BARS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(BARS)}", param_hint="--only")
    names = [name for name in BARS if not only or name in only]
    here = environment("cpu")
    with output.progress() as show:
        rows, facts = measure_bars(
            names, MEASURES, lambda stage, done, total: show(Progress(stage, done, total))
        )
    settings = {
        "shape": "mixtral-115m",
        "models": NUM_MODELS,
        "dtype": "bfloat16",
        "device": "cpu",
        "only": names,
    }
    result = Result("bars", here, settings, rows, {"measures": facts}, noun="bars")
    _print(result)
    files.write(result, json_file, html_file)


def _print(result: Result) -> None:
    grid = output.table("bar", "value", "bar", "holds")
    out = output.out()
    for row in result.rows:
        sign = "≥" if row["at_least"] else "≤"
        value = "–" if row["value"] is None else f"{row['value']:.3f}"
        grid.add_row(row["name"], value, f"{sign} {row['bar']:g}", "yes" if row["holds"] else "no")
    out.print(grid)
    for row in result.rows:
        if "why" in row:
            out.print(f"{row['name']}: {row['why']}", markup=False, soft_wrap=True)
