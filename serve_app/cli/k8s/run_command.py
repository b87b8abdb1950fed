"""`expertpool k8s run`: starts a job in the cluster that it runs in, for the base's CronJob."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from serve_app.cli import output
from serve_app.cli.errors import CommandFailed


def run(
    rayjob: Annotated[
        str, typer.Argument(metavar="RAYJOB", help="The suspended RayJob that is copied.")
    ],
) -> None:
    """Run a copy of a suspended RayJob, and exit with the code of its command.

    For a pod whose account may read and create RayJobs; the CronJob expertpool-consolidate is one.
    """
    from serve_app.k8s.job_run import Api, ApiError, address_of
    from serve_app.k8s.job_run import run as run_job

    try:
        api = Api(address_of(os.environ))
        code = run_job(api, rayjob, _say)
    except (ApiError, OSError) as error:
        raise CommandFailed(str(error)) from error
    raise typer.Exit(code)


def _say(line: str) -> None:
    output.err().print(line, markup=False, soft_wrap=True)
