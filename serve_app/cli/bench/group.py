"""The `bench` commands."""

import typer

from serve_app.cli.bench.bars_command import bars
from serve_app.cli.bench.compare_command import compare
from serve_app.cli.bench.consolidate_command import consolidate
from serve_app.cli.bench.http_command import http
from serve_app.cli.bench.load_command import load
from serve_app.cli.bench.make_checkpoint_command import make_checkpoint
from serve_app.cli.bench.step_command import step
from serve_app.cli.bench.tenants_command import tenants

bench = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Measure speed and memory on this machine."""


bench.command()(step)
bench.command()(load)
bench.command()(http)
bench.command()(compare)
bench.command()(bars)
bench.command()(consolidate)
bench.command()(tenants)
bench.command("make-checkpoint")(make_checkpoint)
