"""The `canary` commands: try a release on a share of requests. They serve nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import output
from serve_app.cli.options import Family, RegistryUrl, RequiredRelease
from serve_app.cli.parsing import parse_percent
from serve_app.cli.releases import DEFAULT_CHANNEL, canary_words, open_registry, resolve
from serve_app.cli.traffic.of_channel import OfChannel

if TYPE_CHECKING:
    from consolidation.release import Canary, Side

canary = typer.Typer(
    help="Try a release on a share of requests, then promote or abort it.", no_args_is_help=True
)

Always = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        metavar="T",
        show_default="none",
        help="The canary answers all requests of this tenant; may be repeated.",
    ),
]
Never = Annotated[
    list[str] | None,
    typer.Option(
        "--not-tenant",
        metavar="T",
        show_default="none",
        help="The canary answers no request of this tenant; may be repeated.",
    ),
]


@canary.callback()
def _group() -> None:
    """Try a release on a share of requests, then promote or abort it.

    The endpoint loads it beside the release of the channel. A request goes to one of the two by its
    tenant and its field `user`, so a conversation stays where it began.
    """


@canary.command()
def start(
    release: RequiredRelease,
    family: Family,
    registry: RegistryUrl,
    channel: OfChannel = DEFAULT_CHANNEL,
    share: Annotated[
        float,
        typer.Option(metavar="PERCENT", parser=parse_percent, help="Percent of the requests."),
    ] = 5.0,
    tenant: Always = None,
    not_tenant: Never = None,
) -> None:
    """Let a release answer a share of the channel's requests."""
    from consolidation.release import start_canary

    opened = open_registry(registry, family)
    found = resolve(opened, release)
    made = start_canary(opened, channel, found, share, _sides(tenant, not_tenant) or {})
    _print(channel, made)


@canary.command("set")
def set_(
    percent: Annotated[
        float,
        typer.Argument(metavar="PERCENT", parser=parse_percent, help="Percent of the requests."),
    ],
    family: Family,
    registry: RegistryUrl,
    channel: OfChannel = DEFAULT_CHANNEL,
    tenant: Always = None,
    not_tenant: Never = None,
) -> None:
    """Give the canary another share. Tenants that are named replace those named before."""
    from consolidation.release import set_canary

    opened = open_registry(registry, family)
    _print(channel, set_canary(opened, channel, percent, _sides(tenant, not_tenant)))


@canary.command()
def promote(family: Family, registry: RegistryUrl, channel: OfChannel = DEFAULT_CHANNEL) -> None:
    """Move the channel to the canary. `rollback` moves it back."""
    from consolidation.release import promote_canary

    moved = promote_canary(open_registry(registry, family), channel)
    output.out().print(f"channel {channel}: {moved.previous} → {moved.release}; no canary any more")


@canary.command()
def abort(family: Family, registry: RegistryUrl, channel: OfChannel = DEFAULT_CHANNEL) -> None:
    """Let the channel's own release answer all requests again."""
    from consolidation.release import abort_canary

    ended = abort_canary(open_registry(registry, family), channel)
    output.out().print(f"channel {channel}: {ended} is no canary any more", soft_wrap=True)


def _print(channel: str, made: Canary) -> None:
    words = f"channel {channel}: canary {canary_words(made)}"
    output.out().print(words, markup=False, soft_wrap=True)


def _sides(always: list[str] | None, never: list[str] | None) -> dict[str, Side] | None:
    """None if no tenant is named."""
    if always is None and never is None:
        return None
    both = sorted(set(always or ()) & set(never or ()))
    if both:
        raise typer.BadParameter(f"{both[0]!r} is given to --tenant too", param_hint="--not-tenant")
    sides: dict[str, Side] = {}
    sides.update(dict.fromkeys(always or (), "canary"))
    sides.update(dict.fromkeys(never or (), "stable"))
    return sides
