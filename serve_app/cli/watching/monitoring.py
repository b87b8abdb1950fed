"""`expertpool monitoring`: writes dashboards and alerts. `serve_app.monitoring` makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli import output


def monitoring(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Where the files go; it is made if need be.")
    ],
) -> None:
    """Write Grafana dashboards, and alerts for Prometheus, of the metrics that endpoints have."""
    from serve_app.monitoring.monitoring_files import monitoring_files

    directory.mkdir(parents=True, exist_ok=True)
    for name, text in monitoring_files().items():
        (directory / name).write_text(text, encoding="utf-8")
        output.out().print(str(directory / name), soft_wrap=True, highlight=False)
