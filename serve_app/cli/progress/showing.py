"""Chooses how progress is shown."""

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.cli.output import err
from serve_app.cli.progress.progress_bars import Bars
from serve_app.cli.progress.progress_lines import Lines


@contextmanager
def progress() -> Iterator[Bars | Lines]:
    """What shows progress until the end of the block: bars on a terminal, else lines."""
    if not err().is_terminal:
        yield Lines()
        return
    shown = Bars()
    try:
        yield shown
    finally:
        shown.end()
