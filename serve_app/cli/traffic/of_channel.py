"""The option that says beside which channel something is moved."""

from typing import Annotated

import typer

from serve_app.cli.parsing import parse_name

OfChannel = Annotated[
    str,
    typer.Option(
        "--channel", metavar="C", parser=parse_name, help="The channel that endpoints follow."
    ),
]
