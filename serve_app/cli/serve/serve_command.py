"""`expertpool serve`: its options. How an endpoint runs, `serve_app.serving.run` knows."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli import output
from serve_app.cli.engine_options import engine_options
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import Channel, Family, RegistryUrl
from serve_app.cli.parsing import (
    parse_count,
    parse_free_port,
    parse_port,
    parse_registry,
    parser_of,
)
from serve_app.cli.releases import DEFAULT_CHANNEL, open_channels
from serve_app.engine.config import EngineConfig
from serve_app.page_origin import origin

if TYPE_CHECKING:
    from serve_app.config import ServeConfig


class LogLevel(Enum):
    """The least that is said."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Reload(Enum):
    """What to do with a next release for which there is no room."""

    OVERLAP = "overlap"
    DRAIN = "drain"


Port = Annotated[
    int, typer.Option("--port", metavar="N", parser=parse_port, help="Port to listen on.")
]


def _take(context: typer.Context, path: Path | None) -> Any:
    if path is None:
        return None
    from serve_app.cli.serve.serve_file import take

    return take(context, path)


ConfigFile = Annotated[
    Any,
    typer.Option(
        "--config",
        metavar="FILE",
        parser=Path,
        show_default=False,
        is_eager=True,
        callback=_take,
        help="YAML or JSON file of settings by name; options that are given replace its values.",
    ),
]


@engine_options()
def serve(
    family: Family,
    registry: RegistryUrl,
    engine: EngineConfig,
    channel: Channel = DEFAULT_CHANNEL,
    port: Port = 8000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; others need --keys.")
    ] = "127.0.0.1",
    ingresses: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="2 from 4 cores on, else 1",
            help="Processes that answer on the port; with 2, one serves on when the other dies.",
        ),
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(
            "--drain",
            metavar="S",
            min=0,
            help="Seconds that running answers have to end after a signal.",
        ),
    ] = 30.0,
    keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Answer only those whose keys are in this file; `expertpool keys new` makes it.",
        ),
    ] = None,
    usage: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            parser=parse_registry,
            show_default=False,
            help="Write a record of every request there: a directory or an fsspec address.",
        ),
    ] = None,
    reload: Annotated[
        Reload,
        typer.Option(
            help="If the next release does not fit beside the served one: refuse it (overlap), or "
            "let new requests wait until running ones have ended (drain)."
        ),
    ] = Reload.OVERLAP,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            parser=parser_of(origin),
            show_default=False,
            help="Let scripts of web pages from there use it (CORS); * is any. Repeat for more.",
        ),
    ] = None,
    docs: Annotated[
        bool,
        typer.Option("--docs", help="Show a page about the routes at /docs, to anybody."),
    ] = False,
    response_template: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default="found from each model's chat template",
            help="JSON that says how all models write reasoning and tool calls.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_free_port,
            show_default=False,
            help="Port of this machine where the engine's metrics are, without a key; 0 is any.",
        ),
    ] = None,
    log_level: Annotated[
        LogLevel,
        typer.Option(help="The least that is shown here, a line each, and written to logs."),
    ] = LogLevel.INFO,
    insecure_no_keys: Annotated[
        bool,
        typer.Option("--insecure-no-keys", help="Listen on any address and answer anybody."),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Start an OpenAI-compatible endpoint for all models of a channel's release."""
    from consolidation.run.ray_start import patient_start
    from serve_app.config import UserConfig
    from serve_app.serving.run import run
    from serve_app.text.answers.template_file import read_template_file

    if open_channels(registry, family).read(channel) is None:
        output.err().print(f"channel {channel!r} has no release yet", soft_wrap=True)
    if keys is not None and insecure_no_keys:
        raise WrongUse("give either --keys or --insecure-no-keys, not both")
    if response_template is not None:
        read_template_file(response_template)
    settings = _settings(
        registry=registry,
        family=family,
        engine=engine,
        keys=keys,
        usage=usage,
        allow_origin=tuple(allow_origin or ()),
        docs=docs,
        response_template=response_template,
        reload=reload.value,
        drain_s=drain_s,
        metrics_port=metrics_port,
        log_level=log_level.value,
        insecure_no_keys=insecure_no_keys,
        **(config or {}),
    )
    user = UserConfig(channel=channel)
    run(
        settings,
        user,
        port,
        host=host,
        ingresses=ingresses,
        on_started=partial(_say_where, keys),
        say=_say,
        starting=patient_start,
    )


def _settings(**given: Any) -> ServeConfig:
    """Raises `WrongUse`, which names the option, for a value that no option's parser refuses."""
    from pydantic import ValidationError

    from serve_app.config import ServeConfig

    try:
        return ServeConfig(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).removesuffix("_s").replace("_", "-")
        raise WrongUse(f"Invalid value for '--{option}': {first['msg']}") from error


def _say(line: str) -> None:
    said = f"{datetime.now():%H:%M:%S} {line}"
    output.err().print(said, soft_wrap=True, markup=False)


def _say_where(keys: str | None, address: str) -> None:
    _say(f"listening at {address}/v1; {address}/ready says when a release is served")
    keyed = f"it answers those who have a key of {keys}"
    _say(keyed if keys else "without --keys, it answers whoever can reach it")
