"""The `gc` command: removes what no channel and no recent release needs. It serves nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import output
from serve_app.cli.options import AsJson, Family, RegistryUrl
from serve_app.cli.parsing import parse_span
from serve_app.cli.releases import open_registry
from serve_app.units import size

if TYPE_CHECKING:
    from consolidation.upkeep.unneeded import Found, Unneeded

Keep = Annotated[
    str,
    typer.Option(
        metavar="TIME", help="Keep every release that was published within that time: 36h, 30d."
    ),
]
Grace = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="Keep every file that was written within that time: it may be part of a release that "
        "is being made.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
]


def gc(
    family: Family,
    registry: RegistryUrl,
    keep: Keep = "7d",
    grace: Grace = "24h",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove releases and files that nothing needs any more.

    A release stays if a channel points at it, or did before its last move,
    if it is a canary, or if it is recent. Files stay if such a release has
    them. While a run of consolidate has not ended, nothing is removed.
    """
    from consolidation.upkeep.collecting import find, remove

    kept = timedelta(seconds=parse_span(keep, hint="--keep"))
    unripe = timedelta(seconds=parse_span(grace, hint="--grace"))
    opened = open_registry(registry, family)
    now = datetime.now(UTC)
    found = find(opened, now, keep=kept, grace=unripe)
    if not dry_run:
        opened.storage.tidy()
        remove(opened, found, datetime.now(UTC), unripe)
    if as_json:
        output.print_json(_facts(family, found, is_removed=not dry_run))
    else:
        _print(found, now, is_removed=not dry_run)


def _facts(family: str, found: Unneeded, *, is_removed: bool) -> dict[str, object]:
    return {
        "family": family,
        "removed": is_removed,
        "releases": [one.id for one in found.releases],
        "unfinished": list(found.unfinished),
        "files": sorted(found.blobs),
        "bytes": found.num_bytes,
        "kept": {one.id: list(one.named_by) for one in found.kept},
        "kept_bytes": found.kept_bytes,
    }


def _print(found: Unneeded, now: datetime, *, is_removed: bool) -> None:
    out = output.out()
    grid = output.table("release", "age", "", left=3)
    for column in (0, 1):
        grid.columns[column].no_wrap = True
    goes = "removed" if is_removed else "would be removed"
    for one in sorted((*found.kept, *found.releases), key=lambda one: (one.at, one.id)):
        why = f"kept: {_reason(one)}" if one in found.kept else goes
        grid.add_row(one.id, output.age(one.at, now), why)
    for release in found.unfinished:
        grid.add_row(release, "", f"{goes}: never published")
    if grid.row_count:
        out.print(grid)
    files = output.counted(len(found.blobs), "file")
    out.print(f"{files} {goes}, {size(found.num_bytes)}; {size(found.kept_bytes)} kept")


def _reason(one: Found) -> str:
    return ", ".join(one.named_by) or "recent"
