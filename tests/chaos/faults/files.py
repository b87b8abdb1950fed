"""Files that are damaged where they lie: of the registry, and the keys file."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from consolidation.release import BackboneBlob
from serve_app.bench.http.processor_time import ENGINE
from tests.chaos.family import ALIAS, CHANNEL, FIRST, MODELS
from tests.chaos.ground import Ground
from tests.chaos.ledger import Kind


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _deleted(content: bytes) -> None:
    del content


def emptied(content: bytes) -> bytes:
    del content
    return b""


FAILED_LOADS = "backbone_load_failures_total"
Damage = Callable[[bytes], bytes | None]
"""What becomes of a file's content; None: there is no file any more."""
DAMAGES: Mapping[str, Damage] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "emptied": emptied,
}


def new_release(ground: Ground) -> Mapping[str, Any]:
    """A blob or the manifest of a release not yet taken up: refused, and the old one serves on."""
    family, refused = ground.family, 0
    for damage in (*DAMAGES.values(), _deleted):
        for which in ("blob", "manifest"):
            release = family.fresh()
            place = _own_blob(ground, release) if which == "blob" else _manifest(ground, release)
            with damaged(place, damage):
                _point_at(ground, release)
                ground.until(partial(_has_failed, ground, release), f"{which} is refused")
                assert place.name in ground.endpoint.status()["error"]
            refused += 1
            family.move(family.first)
    assert ground.endpoint.serving() == family.first
    return {"refused": refused}


def served_release(ground: Ground) -> Mapping[str, Any]:
    """Every blob and the manifest of what is served, in place: memory is the engine's own."""
    blobs = sorted((ground.family.folder / "blobs").iterdir())
    for damage in DAMAGES.values():
        with _all_damaged([*blobs, _manifest(ground, ground.family.first)], damage):
            ground.hurt()
            ground.until(partial(answers, ground, 12), "requests are answered")
    return {"blobs": len(blobs), "ways": len(DAMAGES)}


def backbones_to_be_read(ground: Ground) -> Mapping[str, Any]:
    """A backbone's blob, while each load reads it: its model fails by name, the others go on."""
    manifest = ground.family.registry.read_manifest(ground.family.first)
    for damage, model in zip(DAMAGES.values(), MODELS, strict=False):
        before = ground.endpoint.metric(FAILED_LOADS)
        with damaged(_path(ground, _own(manifest.models[model].backbone)), damage):
            ground.hurt()
            ground.until(partial(_loads_fail, ground, before), f"the load of {model} fails")
            ground.until(partial(answers, ground, 6, without=model), "others answer")
        ground.hurt()
    return {"loads failed": ground.endpoint.metric(FAILED_LOADS)}


def bad_at_start(ground: Ground) -> Mapping[str, Any]:
    """A backbone's blob, when an engine starts: its model is refused by name, the others answer."""
    model = MODELS[-1]
    manifest = ground.family.registry.read_manifest(ground.family.first)

    def told() -> bool:
        return model in ground.endpoint.status().get("unavailable_models", {})

    with damaged(_path(ground, _own(manifest.models[model].backbone)), _flipped):
        ground.kill(ENGINE)
        ground.until(told, "it is told", 60)
        ground.until(partial(answers, ground, 6, without=model), "others answer")
        others_s = time.monotonic() - ground.hurt_at
    ground.hurt()
    return {"others answer after s": others_s}


def channel(ground: Ground) -> Mapping[str, Any]:
    """The channel's file: what is served stays, and the trouble is told."""
    place = ground.family.folder / "channels" / f"{CHANNEL}.json"
    for damage in DAMAGES.values():
        with damaged(place, damage):
            ground.until(lambda: bool(ground.endpoint.status()["channel_error"]), "it is told")
            assert ground.endpoint.serving() == ground.family.first
        ground.until(lambda: not ground.endpoint.status()["channel_error"], "it is read again")
        ground.hurt()
    return {"ways": len(DAMAGES)}


def aliases(ground: Ground) -> Mapping[str, Any]:
    """The file of aliases: they stay as they were, and the trouble is told."""
    place = ground.family.folder / "aliases" / f"{CHANNEL}.json"
    for damage in (_truncated, _no_json, emptied):
        with damaged(place, damage):
            ground.until(lambda: bool(ground.endpoint.status()["aliases_error"]), "it is told")
            ground.hurt()
            ground.until(lambda: _asked(ground, ALIAS), "the alias answers")
        ground.until(lambda: not ground.endpoint.status()["aliases_error"], "it is read again")
        ground.hurt()
    return {"ways": 3}


def keys(ground: Ground) -> Mapping[str, Any]:
    """The keys file: the keys stay as they were, and a metric tells."""
    place = ground.family.keys_path
    for damage in (_cut_in_a_digest, _not_a_digest, emptied):
        with damaged(place, damage):
            ground.until(lambda: ground.endpoint.metric("keys_broken") == 1, "the metric tells")
        ground.until(lambda: ground.endpoint.metric("keys_broken") == 0, "it is taken up")
        ground.hurt()
    return {"ways": 3}


def _no_json(content: bytes) -> bytes:
    return content[1:]


def _asked(ground: Ground, model: str) -> bool:
    """Whether a request that came after the harm was answered."""
    seen = ground.seen(ground.hurt_at)
    return any(one.kind is Kind.RIGHT and one.model == model for one in seen)


def _cut_in_a_digest(content: bytes) -> bytes:
    """A file cut between two tenants would be a good one."""
    [*_, last] = re.finditer(rb"sha256: [0-9a-f]{8}", content)
    return content[: last.end()]


def _not_a_digest(content: bytes) -> bytes:
    return re.sub(rb"sha256: .", b"sha256: q", content)


def answers(ground: Ground, number: int, without: str = "") -> bool:
    """Whether so many requests that came after the harm, to other models, were answered."""
    seen = [one for one in ground.seen(ground.hurt_at) if one.begun > ground.hurt_at]
    right = [one for one in seen if one.kind is Kind.RIGHT and one.model != without]
    return len(right) >= number


def _loads_fail(ground: Ground, before: float) -> bool:
    return ground.endpoint.metric(FAILED_LOADS) > before


def _point_at(ground: Ground, release: str) -> None:
    """Moves the channel though the release cannot be read: by the file that a move would write."""
    place = ground.family.folder / "channels" / f"{CHANNEL}.json"
    text = place.read_text(encoding="utf-8")
    place.write_text(text.replace(ground.family.first, release, 1), encoding="utf-8")
    ground.hurt()


def _has_failed(ground: Ground, release: str) -> bool:
    return bool(ground.endpoint.status()["failed_release"] == release)


def _manifest(ground: Ground, release: str) -> Path:
    return ground.family.folder / "releases" / release / "manifest.json"


def _own_blob(ground: Ground, release: str) -> Path:
    """A backbone's that the first release has not."""
    manifest = ground.family.registry.read_manifest(release)
    first = ground.family.manifest(FIRST)
    old = {blob.digest for model in first.models.values() for blob in model.backbone}
    blobs = [blob for name in MODELS for blob in manifest.models[name].backbone]
    return _path(ground, next(blob for blob in blobs if blob.digest not in old))


def _own(backbone: tuple[BackboneBlob, ...]) -> BackboneBlob:
    return max(backbone, key=lambda blob: blob.bytes)


def _path(ground: Ground, blob: BackboneBlob) -> Path:
    return ground.family.folder / "blobs" / f"{blob.digest}.safetensors"


@contextmanager
def damaged(place: Path, damage: Damage) -> Iterator[None]:
    with _all_damaged([place], damage):
        yield


@contextmanager
def _all_damaged(places: list[Path], damage: Damage) -> Iterator[None]:
    """Written in place, so whoever has a file open or mapped sees it; whole again afterwards."""
    whole = {place: place.read_bytes() for place in places}
    try:
        for place, content in whole.items():
            _write_in_place(place, damage(content))
        yield
    finally:
        for place, content in whole.items():
            _write_in_place(place, content)


def _write_in_place(place: Path, content: bytes | None) -> None:
    if content is None:
        place.unlink()
        return
    with place.open("r+b" if place.exists() else "wb") as file:
        file.write(content)
        file.truncate()
