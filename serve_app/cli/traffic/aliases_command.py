"""The `aliases` commands: names that tenants use for models, with defaults. They serve nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli import output
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import AsJson, Family, RegistryUrl
from serve_app.cli.parsing import parse_count, parse_name, parse_numbers
from serve_app.cli.releases import DEFAULT_CHANNEL, open_registry
from serve_app.cli.traffic.of_channel import OfChannel

if TYPE_CHECKING:
    from consolidation.release import Alias, Registry

aliases = typer.Typer(
    help="Give models names that tenants use, with defaults.", no_args_is_help=True
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", parser=parse_name, help="The name that tenants use.")
]


@aliases.callback()
def _group() -> None:
    """Give models names that tenants use, with defaults.

    An endpoint that follows the channel takes up a change with its next look at it.
    """


@aliases.command("set")
def set_(
    name: Name,
    model: Annotated[
        str, typer.Option(metavar="M", parser=parse_name, help="The model that it stands for.")
    ],
    family: Family,
    registry: RegistryUrl,
    channel: OfChannel = DEFAULT_CHANNEL,
    sampling: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X",
            show_default="the model's",
            help="A sampling parameter, such as temperature=0.2; may be repeated.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="the model's",
            help="Longest answer, in tokens.",
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            show_default="none",
            help="The system message of chats that have none.",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template-kwargs",
            metavar="JSON",
            show_default="none",
            help="Variables of the chat template: '{\"thinking\": false}'.",
        ),
    ] = None,
) -> None:
    """Let a name stand for a model. What was said of the name before is replaced.

    The options are defaults: what a request says itself goes before them.
    """
    from consolidation.release import Alias

    made = Alias(
        model=model,
        sampling=_sampling(sampling or []),
        max_tokens=max_tokens,
        system=system or None,
        chat_template_kwargs=_variables(template),
    )
    opened = open_registry(registry, family)
    _check(opened, channel, name, model)
    opened.change_aliases(channel, lambda before: {**before, name: made})
    output.out().print(f"channel {channel}: {name} → {model}", soft_wrap=True)


@aliases.command("list")
def list_(
    family: Family,
    registry: RegistryUrl,
    channel: OfChannel = DEFAULT_CHANNEL,
    as_json: AsJson = False,
) -> None:
    """List a channel's aliases: the models they stand for, and their defaults."""
    found = open_registry(registry, family).aliases(channel)
    known = {} if found is None else found.aliases
    if as_json:
        facts = {name: alias.model_dump(mode="json") for name, alias in known.items()}
        output.print_json({"family": family, "channel": channel, "aliases": facts})
        return
    if not known:
        output.out().print(f"channel {channel} has no aliases", soft_wrap=True)
        return
    grid = output.table("alias", "model", "defaults", left=3)
    for name, alias in known.items():
        grid.add_row(name, alias.model, "\n".join(_defaults(alias)) or "the model's")
    output.out().print(grid)


@aliases.command()
def remove(
    name: Name, family: Family, registry: RegistryUrl, channel: OfChannel = DEFAULT_CHANNEL
) -> None:
    """Take a name away: requests for it are refused from then on."""

    def take(before: Mapping[str, Alias]) -> dict[str, Alias]:
        if name not in before:
            known = ", ".join(before) or "none"
            raise WrongUse(f"channel {channel!r} has no alias {name!r}; it has: {known}")
        return {one: alias for one, alias in before.items() if one != name}

    open_registry(registry, family).change_aliases(channel, take)
    output.out().print(f"channel {channel}: {name} is no alias any more", soft_wrap=True)


def _check(registry: Registry, channel: str, name: str, model: str) -> None:
    """Raises WrongUse for a model that the channel's releases do not have, and for a name that is
    that of another of their models.
    """
    stable, canary = registry.channel(channel), registry.canary(channel)
    if stable is None:
        raise WrongUse(f"family {registry.family!r} has no channel {channel!r}")
    releases = [stable.release, *([canary.release] if canary and canary.release else [])]
    models = {one for release in releases for one in registry.read_manifest(release).models}
    if model not in models:
        known = ", ".join(sorted(models))
        raise WrongUse(f"channel {channel!r} has no model {model!r}; it has: {known}")
    if name in models and name != model:
        raise WrongUse(f"{name!r} is the name of another model of channel {channel!r}")


def _sampling(given: list[str]) -> dict[str, float]:
    from consolidation.release.aliases import check_sampling

    found = parse_numbers(given, hint="--sampling")
    try:
        check_sampling(found)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--sampling") from error
    return found


def _variables(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}", parse_constant=_no_constant)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not JSON: {error}", param_hint="--template-kwargs"
        ) from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object", param_hint="--template-kwargs")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _defaults(alias: Alias) -> list[str]:
    said = [f"{name}={value:g}" for name, value in alias.sampling.items()]
    if alias.max_tokens is not None:
        said.append(f"max_tokens={alias.max_tokens}")
    if alias.system is not None:
        short = alias.system if len(alias.system) <= 60 else alias.system[:59] + "…"
        said.append(f"system: {short}")
    if alias.chat_template_kwargs:
        said.append(f"template: {json.dumps(alias.chat_template_kwargs)}")
    return said
