"""The `keys` commands: make, list, revoke and rotate keys of tenants. They serve nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli import output
from serve_app.cli.options import AsJson
from serve_app.cli.parsing import parse_count, parse_moment, parse_name, parse_positive, parse_span
from serve_app.service_class import ServiceClass

if TYPE_CHECKING:
    from serve_app.tenants.keys_file import Key, KeysFile, Tenant

keys = typer.Typer(help="Make and revoke the keys with which tenants ask.", no_args_is_help=True)

KeysAddress = Annotated[
    str,
    typer.Option("--keys", metavar="FILE", help="The keys file: a path or an fsspec address."),
]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, or the beginning of it.")]


@keys.callback()
def _group() -> None:
    """Make and revoke the keys with which tenants ask.

    The keys file holds tenants, their limits, and digests of their keys. A running endpoint takes
    up a change within 5 seconds.
    """


@keys.command()
def new(
    tenant: Annotated[
        str, typer.Option(metavar="T", parser=parse_name, help="Whose key: added if it is new.")
    ],
    address: KeysAddress,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE", show_default="infer", help="infer, admin or metrics; may be repeated."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            show_default="never",
            help="When the key stops being good: 2027-01-31, or with a time.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            show_default="all",
            help="The tenant may use these models alone: a name or a pattern; may be repeated.",
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            metavar="W", parser=parse_positive, show_default="1", help="The tenant's share."
        ),
    ] = None,
    highest_class: Annotated[
        ServiceClass | None,
        typer.Option(
            show_default="interactive",
            help="The highest class of requests that the tenant may ask for (service_tier).",
        ),
    ] = None,
    rpm: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="no limit",
            help="The tenant's requests per minute.",
        ),
    ] = None,
    tpm: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="no limit",
            help="The tenant's tokens per minute.",
        ),
    ] = None,
    monthly_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="no limit",
            help="The tenant's tokens in a calendar month (UTC); serving then needs --usage.",
        ),
    ] = None,
    concurrent: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="no limit",
            help="The tenant's requests at once.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="no limit",
            help="Tokens of the longest prompt.",
        ),
    ] = None,
    answer_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="no limit",
            help="Tokens of the longest answer.",
        ),
    ] = None,
    open_choices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="what all may have",
            help="Answers that may wait and run at once; a request has n for each prompt.",
        ),
    ] = None,
    open_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=parse_count,
            show_default="what all may have",
            help="Tokens of the prompts of those answers.",
        ),
    ] = None,
) -> None:
    """Make a key, and print it: once, as the last line on stdout.

    The file is made if there is none. What you say of the tenant (models, weight, limits) holds for
    all of its keys; what you leave out stays as it is.
    """
    from serve_app.tenants.key_changes import Wanted, with_new_key
    from serve_app.tenants.keys_file import Limits
    from serve_app.tenants.keys_store import KeysStore

    wanted = Wanted(
        tenant,
        scopes=_scopes(scope),
        expires=None if expires is None else parse_moment(expires, hint="--expires"),
        models=None if model is None else tuple(model),
        weight=weight,
        highest_class=highest_class,
        limits=Limits(
            requests_per_minute=rpm,
            tokens_per_minute=tpm,
            concurrent_requests=concurrent,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            open_choices=open_choices,
            open_tokens=open_tokens,
            monthly_tokens=monthly_tokens,
        ),
    )
    made: list[str] = []

    def add(file: KeysFile) -> KeysFile:
        changed, key = with_new_key(file, wanted)
        made.append(key)
        return changed

    KeysStore(address).change(add)
    _print_new(made[-1], tenant)  # of several, if others changed the file meanwhile


@keys.command("list")
def list_(address: KeysAddress, as_json: AsJson = False) -> None:
    """List tenants, their limits, and their keys' ids, scopes and ends."""
    from serve_app.tenants.keys_store import KeysStore

    file = KeysStore(address).read()
    now = datetime.now(UTC)
    if as_json:
        output.print_json(_facts(file, now))
        return
    grid = output.table("tenant", "key", "scopes", "good until", "models", "limits", left=6)
    for name, tenant in file.tenants.items():
        about = (", ".join(tenant.models), _limits(tenant))
        for key in tenant.keys:
            grid.add_row(name, key.id, ", ".join(sorted(key.scopes)), _until(key, now), *about)
        if not tenant.keys:
            grid.add_row(name, "none", "", "", *about)
    output.out().print(grid)


@keys.command()
def revoke(key: KeyId, address: KeysAddress) -> None:
    """Take a key away: from then on it is refused."""
    from serve_app.tenants.key_changes import find, without_key
    from serve_app.tenants.keys_store import KeysStore

    gone: list[str] = []

    def take(file: KeysFile) -> KeysFile:
        name, found = find(file, key)
        gone.append(f"key {found.id} of tenant {name}")
        return without_key(file, found.id)

    KeysStore(address).change(take)
    output.out().print(f"revoked {gone[-1]}")


@keys.command()
def rotate(
    key: KeyId,
    address: KeysAddress,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long both keys are good: 30m, 24h, 7d.")
    ] = "24h",
) -> None:
    """Make a key like another, print it as `new` does, and let the other one end."""
    from serve_app.tenants.key_changes import find, with_rotated_key
    from serve_app.tenants.keys_store import KeysStore

    until = datetime.now(UTC) + timedelta(seconds=parse_span(overlap, hint="--overlap"))
    made: list[tuple[str, str]] = []
    ends = [until]

    def change(file: KeysFile) -> KeysFile:
        name, old = find(file, key)
        changed, text = with_rotated_key(file, key, until)
        made.append((text, name))
        ends.append(find(changed, old.sha256)[1].expires or until)
        return changed

    KeysStore(address).change(change)
    _print_new(*made[-1])
    output.err().print(f"key {key} is good until {ends[-1]:%Y-%m-%d %H:%M} UTC", soft_wrap=True)


def _scopes(given: list[str] | None) -> Any:
    from serve_app.tenants.keys_file import KeyScope

    if given is None:
        return None
    known = {scope.value for scope in KeyScope}
    for one in given:
        if one not in known:
            raise typer.BadParameter(
                f"{one!r} is not a scope: {', '.join(sorted(known))}", param_hint="--scope"
            )
    return frozenset(KeyScope(one) for one in given)


def _print_new(key: str, tenant: str) -> None:
    output.err().print(f"a key of tenant {tenant}; it is shown only now:", soft_wrap=True)
    output.out().print(key, markup=False, soft_wrap=True)


def _until(key: Key, now: datetime) -> str:
    if key.expires is None:
        return "always"
    ended = " (ended)" if key.has_expired(now) else ""
    return f"{key.expires.astimezone(UTC):%Y-%m-%d %H:%M}{ended}"


def _limits(tenant: Tenant) -> str:
    said = [] if tenant.weight == 1 else [f"weight {tenant.weight:g}"]
    if tenant.highest_class is not ServiceClass.INTERACTIVE:
        said.append(f"at most {tenant.highest_class}")
    for value, unit in (
        (tenant.requests_per_minute, "requests/min"),
        (tenant.tokens_per_minute, "tokens/min"),
        (tenant.concurrent_requests, "requests at once"),
        (tenant.prompt_tokens, "tokens a prompt"),
        (tenant.answer_tokens, "tokens an answer"),
        (tenant.open_choices, "answers open"),
        (tenant.open_tokens, "tokens of open prompts"),
        (tenant.monthly_tokens, "tokens/month"),
    ):
        if value is not None:
            said.append(f"{value} {unit}")
    return "\n".join(said) or "none"


def _facts(file: KeysFile, now: datetime) -> dict[str, Any]:
    return {
        "tenants": {
            name: {
                **tenant.model_dump(mode="json", exclude={"keys"}),
                "keys": [
                    {
                        "id": key.id,
                        "scopes": sorted(key.scopes),
                        "expires": key.expires,
                        "has_expired": key.has_expired(now),
                    }
                    for key in tenant.keys
                ],
            }
            for name, tenant in file.tenants.items()
        }
    }
