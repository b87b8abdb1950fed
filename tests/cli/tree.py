"""The commands of `expertpool`, as they are found: none is listed."""

from collections.abc import Iterator
from typing import Any

import typer

from serve_app.cli.main import app


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below `command` and the words that call it, groups of commands left out."""
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


TREE = dict(commands(typer.main.get_command(app)))
"""Every command by the words that call it."""
