"""`expertpool usage`: sums the usage records of an endpoint, for an invoice."""

from __future__ import annotations

import csv
import sys
from dataclasses import astuple, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli import output
from serve_app.cli.errors import CommandFailed, WrongUse
from serve_app.cli.options import AsJson
from serve_app.cli.parsing import parse_moment, parse_registry

_KEYS_HELP = (
    "Sum by these, with commas between: "
    "tenant, key, model (asked), answered_by, release, day, status."
)


def usage(
    records: Annotated[
        str,
        typer.Argument(
            metavar="RECORDS", parser=parse_registry, help="What `serve --usage` was given."
        ),
    ],
    start: Annotated[
        str,
        typer.Option("--from", metavar="DATE", help="The first day, or a time: 2026-11-01."),
    ],
    end: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DATE", show_default="now", help="The day or time before which to end."
        ),
    ] = None,
    by: Annotated[str, typer.Option(metavar="KEYS", help=_KEYS_HELP)] = "tenant,model",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sum requests and tokens of an endpoint's records. Refused requests count as requests."""
    from consolidation.release.storage import open_storage
    from serve_app.tenants.usage_sums import KEYS, UsageSum, summed
    from serve_app.tenants.usage_sums import records as read

    keys = by.split(",")
    for key in keys:
        if key not in KEYS or keys.count(key) > 1:
            raise typer.BadParameter(
                f"{by!r}: {key!r} is not one of {', '.join(KEYS)}, each at most once",
                param_hint="--by",
            )
    if "://" not in records and not Path(records).is_dir():
        raise WrongUse(f"there are no records in {records!r}: no such directory")
    first = parse_moment(start, hint="--from")
    last = datetime.now(UTC) if end is None else parse_moment(end, hint="--to")
    if last <= first:
        raise WrongUse(f"--to {end or 'now'} is not after --from {start}")
    try:
        sums = summed(read(open_storage(records), first, last), keys)
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    counts = [field.name for field in fields(UsageSum)]
    rows = [[*key, *astuple(one)] for key, one in sums.items()]
    if as_json:
        output.print_json(
            {"usage": [dict(zip([*keys, *counts], row, strict=True)) for row in rows]}
        )
    elif as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([[*keys, *counts], *rows])
    elif rows:
        words = [name.replace("_", " ") for name in counts]
        grid = output.table(*keys, *words, left=len(keys))
        for row in rows:
            grid.add_row(*(str(cell) for cell in row))
        output.out().print(grid)
    else:
        output.out().print(f"no records from {start} on in {records}", soft_wrap=True)
