"""Writes a benchmark's result: JSON for programs, one HTML page for people."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import output
from serve_app.cli.errors import WrongUse

if TYPE_CHECKING:
    from serve_app.bench.result.result import Result

PLOTTING = ("jinja2", "matplotlib")

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", show_default=False, help="Write all results as JSON."),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        show_default=False,
        help="Write an HTML page with tables and plots.",
    ),
]


def require_writable(json_file: Path | None, html_file: Path | None) -> None:
    """Refuse files that could not be written, before anything is measured.

    Raises:
        WrongUse: a file's directory does not exist, it is a directory itself, or the packages
            that draw the page's plots are not installed.
    """
    for option, file in (("--json", json_file), ("--html", html_file)):
        if file is None:
            continue
        if file.is_dir():
            raise WrongUse(f"{option} {file}: it is a directory")
        if not file.parent.is_dir():
            raise WrongUse(f"{option} {file}: there is no directory {file.parent}")
    missing = [name for name in PLOTTING if importlib.util.find_spec(name) is None]
    if html_file is not None and missing:
        raise WrongUse(f"--html {html_file}: its plots need {' and '.join(missing)}")


def write(result: Result, json_file: Path | None, html_file: Path | None) -> None:
    """Write a result to the files that were given."""
    if json_file is not None:
        output.write_json(json_file, result.to_json())
    if html_file is not None:
        from serve_app.bench.benchmark_pages import page

        html_file.write_text(page(result), encoding="utf-8")
