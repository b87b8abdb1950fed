"""Commands that show a family's releases and move its channels. They build and serve nothing."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.cli import output
from serve_app.cli.computing.computing_device import ComputingDevice, computing_device
from serve_app.cli.errors import CommandFailed, WrongUse
from serve_app.cli.options import (
    AsJson,
    Channel,
    Family,
    RegistryUrl,
    Release,
    RequiredRelease,
)
from serve_app.cli.progress import showing
from serve_app.units import size

if TYPE_CHECKING:
    from consolidation.release import Canary, Manifest, Part, Registry, ReleaseSummary
    from consolidation.release.channels import ChannelStore

DEFAULT_CHANNEL = "stable"


def releases(family: Family, registry: RegistryUrl, as_json: AsJson = False) -> None:
    """List releases: id, age, models, expert bytes before → after, channels."""
    opened = open_registry(registry, family)
    listed, canaries = opened.releases(), opened.canaries()
    if as_json:
        found = [dataclasses.asdict(one) for one in listed]
        beside = {channel: one.model_dump(mode="json") for channel, one in canaries.items()}
        output.print_json({"family": family, "releases": found, "canaries": beside})
        return
    if not listed:
        output.out().print(_no_releases(opened), markup=False, soft_wrap=True)
        return
    _print_list(listed, datetime.now(UTC))
    for channel, one in canaries.items():
        words = f"canary of channel {channel}: {canary_words(one)}"
        output.out().print(words, markup=False, soft_wrap=True)


def _print_list(listed: list[ReleaseSummary], now: datetime) -> None:
    grid = output.table("release", "age", "models", "expert bytes", "channels", left=5)
    for column in (0, 1, 3):
        grid.columns[column].no_wrap = True
    for one in listed:
        grid.add_row(
            one.id,
            output.age(one.at, now) if one.at else "?",
            "cannot be read" if one.problem else ", ".join(one.models),
            "" if one.problem else output.change(one.expert_bytes_before, one.expert_bytes_after),
            ", ".join(one.channels),
        )
    out = output.out()
    out.print(grid)
    for one in listed:
        if one.problem:
            out.print(f"{one.id}: {one.problem}", markup=False, soft_wrap=True)


def inspect(
    family: Family, registry: RegistryUrl, release: Release = None, as_json: AsJson = False
) -> None:
    """Show what is in a release: models, pool, bytes, quality, origin."""
    opened = open_registry(registry, family)
    found = resolve(opened, release)
    manifest = opened.read_manifest(found)
    facts = _facts(opened, found, manifest)
    for name, template in _response_templates(opened, found, manifest).items():
        facts["models"][name]["response_template"] = template
    if as_json:
        output.print_json(facts)
    else:
        _print_facts(facts)


def _response_templates(
    registry: Registry, release: str, manifest: Manifest
) -> dict[str, str | None]:
    """By what answers of each model are parsed, if they are. Equal tokenizers are read once."""
    from tempfile import TemporaryDirectory

    from consolidation.release import ReleaseReader

    reader, found = ReleaseReader(registry, release), dict[str, str | None]()
    known: dict[tuple[tuple[str, str], ...], str | None] = {}
    for name, model in sorted(manifest.models.items()):
        files = tuple((file, blob.digest) for file, blob in sorted(model.tokenizer_files.items()))
        if files not in known:
            with TemporaryDirectory() as place:
                reader.write_tokenizer(name, Path(place))
                known[files] = _format_in(Path(place))
        found[name] = known[files]
    return found


def _format_in(directory: Path) -> str | None:
    from serve_app.text.errors import TextError
    from serve_app.text.tokenizer import Tokenizer

    try:
        form = Tokenizer.load(directory).form
    except TextError:
        return "unreadable"
    return None if form is None else form.name


def _formats(models: dict[str, dict[str, Any]]) -> str:
    """`hermes`, or where models differ, `hermes: a, b; plain: c`."""
    by_format: dict[str, list[str]] = {}
    for name, model in models.items():
        by_format.setdefault(model["response_template"] or "plain", []).append(name)
    if len(by_format) == 1:
        return next(iter(by_format))
    return "; ".join(f"{form}: {', '.join(names)}" for form, names in sorted(by_format.items()))


def verify(
    family: Family,
    registry: RegistryUrl,
    release: Release = None,
    device: ComputingDevice = "cpu",
) -> None:
    """Read a release again, and check every digest and every golden prompt."""
    computing = computing_device(device)
    from consolidation.evaluation.verify import verify as verify_release

    opened = open_registry(registry, family)
    found = resolve(opened, release)
    with showing.progress() as show:
        findings = verify_release(opened, found, show, computing)
    for finding in findings:
        output.err().print(finding, markup=False, soft_wrap=True)
    if findings:
        raise CommandFailed(f"release {found}: {output.counted(len(findings), 'finding')}")
    output.out().print(f"release {found}: every digest and every golden prompt is right")


def promote(
    release: RequiredRelease,
    family: Family,
    registry: RegistryUrl,
    channel: Channel = DEFAULT_CHANNEL,
) -> None:
    """Move a channel to a release. Endpoints that follow it switch over."""
    opened = open_registry(registry, family)
    opened.storage.tidy()
    found = resolve(opened, release)
    before = opened.channel(channel)
    opened.move_channel(channel, found, expected=before.release if before else None)
    output.out().print(f"channel {channel}: {before.release if before else 'nothing'} → {found}")


def rollback(family: Family, registry: RegistryUrl, channel: Channel = DEFAULT_CHANNEL) -> None:
    """Move a channel back to its previous release."""
    opened = open_registry(registry, family)
    opened.storage.tidy()
    now = opened.channel(channel)
    if now is None:
        raise WrongUse(f"family {family!r} has no channel {channel!r}")
    if now.previous is None:
        raise WrongUse(f"channel {channel!r} has no release before {now.release}")
    opened.move_channel(channel, now.previous, expected=now.release)
    output.out().print(f"channel {channel}: {now.release} → {now.previous}")


def canary_words(found: Canary) -> str:
    """Which release, and whose requests: `1f2e… for 5 % of requests; always: acme`."""
    words = f"{found.release} for {found.percent:g} % of requests"
    for side, when in (("canary", "always"), ("stable", "never")):
        named = sorted(tenant for tenant, on in found.tenants.items() if on == side)
        words += f"; {when}: {', '.join(named)}" if named else ""
    return words


def open_registry(url: str, family: str) -> Registry:
    """The registry of a family.

    Raises:
        WrongUse: it is a local directory that does not exist.
        NoBucket, StorageFailed: it is an address at which none can be.
    """

    from consolidation.release import Registry

    _require_registry(url)
    found = Registry(url, family)
    found.storage.check()
    return found


def open_channels(url: str, family: str) -> ChannelStore:
    """`open_registry` for who reads channels alone: it takes a tenth of the time."""
    from consolidation.release.channels import ChannelStore, family_address
    from consolidation.release.storage import open_storage

    _require_registry(url)
    storage = open_storage(family_address(url, family))
    storage.check()
    return ChannelStore(storage)


def _require_registry(url: str) -> None:
    if "://" not in url and not Path(url).is_dir():
        raise WrongUse(f"there is no registry in {url!r}: no such directory")


def resolve(registry: Registry, wanted: str | None) -> str:
    """The release that a user means: a complete id, a channel, or the beginning of one id.

    None means the release of channel `stable`, or the newest if there is no such channel.

    Raises:
        WrongUse: no release matches, or more than one.
    """
    channels = registry.channels()
    if wanted is None and DEFAULT_CHANNEL in channels:
        return channels[DEFAULT_CHANNEL].release
    if wanted is not None and wanted in channels:
        return channels[wanted].release
    listed = registry.releases()
    if wanted is None:
        return _newest(registry, listed)
    meant = [one.id for one in listed if one.id.startswith(wanted)]
    if len(meant) > 1:
        raise WrongUse(f"{wanted!r} matches several releases: {', '.join(meant)}")
    return meant[0] if meant else wanted


def _newest(registry: Registry, listed: list[ReleaseSummary]) -> str:
    if not listed:
        raise WrongUse(_no_releases(registry))
    return listed[-1].id


def _no_releases(registry: Registry) -> str:
    words = f"no releases of family {registry.family!r} in {registry.url}"
    others = registry.other_families()
    return f"{words}; there are some of {', '.join(others)}" if others else words


def _facts(registry: Registry, release: str, manifest: Manifest) -> dict[str, Any]:
    at = registry.published_at(release)
    pointing = [name for name, one in registry.channels().items() if one.release == release]
    return {
        "release": release,
        "family": manifest.family,
        "published_at": at.isoformat() if at else None,
        "channels": pointing,
        "schema_version": manifest.schema_version,
        "architecture": manifest.architecture,
        "dtype": manifest.dtype,
        "expert_bytes_before": manifest.expert_bytes_before,
        "expert_bytes_after": manifest.expert_bytes_after,
        "expert_bytes_one_model": manifest.expert_bytes_one_model,
        "expert_device_bytes": manifest.expert_device_bytes,
        "models": {
            name: {
                "source": model.source.name,
                "digest": model.source.digest,
                "quantised": model.source.quantised,
                "adapter": model.source.adapter,
                "merged_tensors": model.source.merged,
                "not_served": model.source.not_served,
                "backbone_bytes": sum(blob.bytes for blob in model.backbone),
                "experts": sum(len(row) for row in model.expert_map),
                "slots": sum(len(set(row)) for row in model.expert_map),
                "quality": manifest.quality[name].model_dump()
                if name in manifest.quality
                else None,
            }
            for name, model in sorted(manifest.models.items())
        },
        "layers": [
            {
                "module": layer.module,
                "slots": layer.num_slots,
                "residuals": len(layer.residuals),
                "formats": sorted({_form(part) for part in (*layer.slots, *layer.residuals)}),
                "bytes": sum(part.bytes for part in (*layer.slots, *layer.residuals)),
            }
            for layer in manifest.layers
        ],
        "provenance": manifest.provenance,
    }


def _form(part: Part) -> str:
    """The format of a part, and for which matrices it is if not for all: `rank-1@down_proj`."""
    return "@".join([part.format, *([",".join(part.matrices)] if part.matrices else [])])


def _print_facts(facts: dict[str, Any]) -> None:
    out = output.out()
    before, after = facts["expert_bytes_before"], facts["expert_bytes_after"]
    slots, residuals = (sum(x[of] for x in facts["layers"]) for of in ("slots", "residuals"))
    added = f" and {residuals} residuals" if residuals else ""
    experts = sum(model["experts"] for model in facts["models"].values())
    rows = {
        "release": facts["release"],
        "family": facts["family"],
        "published": facts["published_at"] or "?",
        "channels": ", ".join(facts["channels"]) or "none",
        "architecture": f"{facts['architecture']}, {facts['dtype']}",
        "expert bytes": output.change(before, after),
        "of one model": f"{after / facts['expert_bytes_one_model']:.3f} ×",
        "answers": _formats(facts["models"]),
        "pool": f"{experts} experts in {slots} slots{added} of {len(facts['layers'])} layers",
    }
    for name, value in rows.items():
        out.print(f"{name:<14}{value}", markup=False, soft_wrap=True)
    grid = output.table("model", "slots", "backbone", "KL", "perplexity")
    for name, model in facts["models"].items():
        grid.add_row(
            name,
            str(model["slots"]),
            size(model["backbone_bytes"]),
            *output.quality_cells(model["quality"]),
        )
    out.print()
    out.print(grid)
    for name, model in facts["models"].items():
        merged = model["merged_tensors"]
        of_adapter = f", {merged} of its adapter's changes merged" if merged else ""
        out.print(f"{name} from {model['source']}{of_adapter}", markup=False, soft_wrap=True)
    _print_not_served(facts["models"])


def _print_not_served(models: dict[str, dict[str, Any]]) -> None:
    """What the checkpoints had beside the text model, a line for all models with the same."""
    from consolidation.checkpoints.not_served import in_words

    found: dict[str, list[str]] = {}
    for name, model in models.items():
        if model["not_served"]:
            found.setdefault(in_words(model["not_served"]), []).append(name)
    for words, names in found.items():
        line = f"not served: {words} of {', '.join(names)}"
        output.out().print(line, markup=False, soft_wrap=True)
