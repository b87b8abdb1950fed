"""Finds what nothing needs in a registry, and removes it. What that is, `unneeded` decides."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from consolidation.errors import Refused
from consolidation.release import Damaged, Registry
from consolidation.release.registry import blob_path, is_release_id, manifest_blobs
from consolidation.run.journal import WORK
from consolidation.run.kept_results import DIRECTORY as STUDIES
from consolidation.statistics.stored import DIRECTORY as STATISTICS
from consolidation.upkeep.unneeded import GRACE, KEEP, Found, Unneeded, unneeded


def find(
    registry: Registry, now: datetime, *, keep: timedelta = KEEP, grace: timedelta = GRACE
) -> Unneeded:
    """What can be removed from a family's registry. Changes nothing.

    Raises:
        Refused: a run of `consolidate` that may still go on wrote within `grace`.
        Damaged: a channel, a canary or a release that stays cannot be read.
        NewerSchema: so that blobs of a newer program's release are not taken for unneeded.
    """
    _require_no_run(registry, now, grace)
    named = _named(registry)
    storage = registry.storage
    releases, unfinished = list[Found](), dict[str, datetime]()
    for release in filter(is_release_id, storage.names("releases")):
        files = storage.files(f"releases/{release}")
        latest = max((file.at for file in files.values()), default=now)
        if "manifest.json" not in files:
            unfinished[release] = latest
            continue
        found = _found(registry, release, registry.published_at(release) or latest, named)
        if not found.is_readable and (found.named_by or now - found.at < keep):
            registry.read_manifest(release)  # says what is wrong with it
        releases.append(found)
    blobs = {f"blobs/{name}": file for name, file in storage.files("blobs").items()}
    missing = sorted(set(named) - {one.id for one in releases})
    if missing:
        raise Damaged(f"{named[missing[0]][0]} names release {missing[0]}, which is not there")
    return unneeded(releases, unfinished, blobs, now, keep=keep, grace=grace)


def remove(registry: Registry, found: Unneeded, now: datetime, grace: timedelta = GRACE) -> None:
    """Remove it: first the releases, so that none is visible that lacks a blob.

    If something names one of them by now, or a run has begun, nothing is removed.
    If this is interrupted, what is left is found again.

    Raises:
        Refused: as for `find`, or since the channels have moved.
    """
    _require_no_run(registry, now, grace)
    named = _named(registry)
    for one in found.releases:
        if one.id in named:
            raise Refused(
                f"release {one.id} is in use again: {', '.join(named[one.id])}; try again"
            )
    for one in found.releases:
        registry.storage.remove(f"releases/{one.id}/manifest.json")
        registry.storage.remove(f"releases/{one.id}")
    for release in found.unfinished:
        registry.storage.remove(f"releases/{release}")
    registry.storage.remove_files(list(found.blobs))


def _found(
    registry: Registry, release: str, at: datetime, named: dict[str, tuple[str, ...]]
) -> Found:
    by = named.get(release, ())
    try:
        manifest = registry.read_manifest(release)
    except Damaged:
        return Found(release, at, frozenset(), by, is_readable=False)
    blobs = frozenset(blob_path(blob, suffix) for blob, suffix in manifest_blobs(manifest))
    return Found(release, at, blobs, by)


def _named(registry: Registry) -> dict[str, tuple[str, ...]]:
    """Releases that something names, and what does, in words."""
    found: dict[str, tuple[str, ...]] = {}
    for release, by in _names(registry):
        found[release] = (*found.get(release, ()), by)
    return found


def _names(registry: Registry) -> Iterator[tuple[str, str]]:
    for name, channel in registry.channels().items():
        yield channel.release, f"channel {name}"
        if channel.previous is not None:
            yield channel.previous, f"before channel {name}"
    for name, canary in registry.canaries().items():
        if canary.release is not None:
            yield canary.release, f"canary of {name}"


def _require_no_run(registry: Registry, now: datetime, grace: timedelta) -> None:
    """Runs that have not ended hold blobs that no release names yet."""
    storage = registry.storage
    kept = {name.rsplit("/", 1)[-1] for name in (STUDIES, STATISTICS)}
    for run in storage.names(WORK):
        if run in kept or run.endswith(".lock"):
            continue
        files = storage.files(f"{WORK}/{run}")
        latest = max((file.at for file in files.values()), default=None)
        if latest is not None and now - latest < grace:
            hours = grace.total_seconds() / 3600
            raise Refused(
                f"{storage.name(f'{WORK}/{run}')}: a run of consolidate wrote here at "
                f"{latest:%Y-%m-%d %H:%M:%S} UTC and has not published; let it end, or wait until "
                f"it has not written for {hours:g} h; delete that directory if it will not go on"
            )
