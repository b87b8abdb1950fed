"""The group `k8s`. Its commands have files of their own."""

import typer

from serve_app.cli.k8s.lint_command import lint
from serve_app.cli.k8s.render_command import render
from serve_app.cli.k8s.run_command import run

k8s = typer.Typer(help="Make and check manifests for Kubernetes.", no_args_is_help=True)
k8s.command()(render)
k8s.command()(lint)
k8s.command()(run)


@k8s.callback()
def _group() -> None:
    """Make and check manifests for Kubernetes. `run` alone needs a cluster, none needs kubectl.

    docs/kubernetes.md says what to do with them.
    """
