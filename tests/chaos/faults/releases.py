"""Many releases in a row, and releases that should never be served."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from consolidation.release import (
    Manifest,
    ReleaseReader,
    promote_canary,
    set_canary,
    start_canary,
)
from tests.chaos.composing import with_config, with_model
from tests.chaos.family import CHANNEL, FIRST
from tests.chaos.faults.files import damaged, emptied
from tests.chaos.ground import Ground
from tests.chaos.ledger import Kind

NUM_IN_A_ROW = 20
SOUND_S = 3.0
"""How long the old release must serve on after a bad one was refused."""


def in_a_row(ground: Ground) -> Mapping[str, Any]:
    """20 releases, each taken up under load, and back to the first."""
    longest = 0.0
    for _ in range(NUM_IN_A_ROW):
        longest = max(longest, ground.serve(ground.family.fresh()))
    longest = max(longest, ground.serve(ground.family.first))
    ground.hurt()
    ground.until(lambda: ground.endpoint.status()["loaded_releases"] == 1, "old ones are freed")
    return {"moves": NUM_IN_A_ROW + 1, "longest s": longest}


def canary(ground: Ground) -> Mapping[str, Any]:
    """A canary is started, gets a larger share, its file is damaged, and it is promoted."""
    family = ground.family

    def told(field: str) -> Any:
        return (ground.endpoint.status()["canary"] or {}).get(field)

    release = family.fresh()
    start_canary(family.registry, CHANNEL, release, 30, {})
    ground.until(lambda: bool(told("serves")), "it serves")
    set_canary(family.registry, CHANNEL, 60, None)
    ground.until(lambda: told("percent") == 60, "its share is taken up")
    begun = time.monotonic()
    place = family.folder / "canaries" / f"{CHANNEL}.json"
    with damaged(place, emptied):
        ground.until(lambda: bool(told("error")), "it is told")
        time.sleep(SOUND_S)
    answered = [one.release for one in ground.seen(begun) if one.kind is Kind.RIGHT]
    assert {release, family.first} == set(answered), f"answers of {set(answered)}"
    promote_canary(family.registry, CHANNEL)
    ground.until(lambda: ground.endpoint.serving() == release, "it is the channel's release")
    ground.hurt()
    ground.serve(family.first)
    return {"share of the canary": answered.count(release) / len(answered)}


def _unknown_rope(manifest: Manifest, _: Ground) -> Manifest:
    return with_config(manifest, "a", rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})


def _no_theta(manifest: Manifest, _: Ground) -> Manifest:
    return with_config(manifest, "a", rope_parameters={"rope_type": "default", "rope_theta": 0.0})


def _huge_vocabulary(manifest: Manifest, _: Ground) -> Manifest:
    return with_config(manifest, "a", vocab_size=10**9)


def _nan_in_a_norm(manifest: Manifest, ground: Ground) -> Manifest:
    def spoil(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if "layernorm" not in name:
            return tensor
        spoilt = tensor.clone()
        spoilt[0] = torch.nan
        return spoilt

    return _with_backbone(manifest, ground, spoil)


def _small_vocabulary(manifest: Manifest, ground: Ground) -> Manifest:
    """Whole in itself, but its tokenizer knows more tokens than it has rows."""

    def cut(name: str, tensor: torch.Tensor) -> torch.Tensor:
        rows = name in ("model.embed_tokens.weight", "lm_head.weight")
        return tensor[:100].clone() if rows else tensor

    return with_config(_with_backbone(manifest, ground, cut), "a", vocab_size=100)


BAD: Mapping[str, Callable[[Manifest, Ground], Manifest]] = {
    "unknown rope_type": _unknown_rope,
    "rope_theta 0": _no_theta,
    "NaN in a norm": _nan_in_a_norm,
    "vocabulary smaller than the tokenizer": _small_vocabulary,
    "vocab_size 1e9": _huge_vocabulary,
}
"""What changes model `a` of a good release into one that must be refused."""


def refused(ground: Ground, bad: str) -> Mapping[str, Any]:
    """It is refused with a reason, and the old release serves on as if nothing had been."""
    family = ground.family
    release = family.registry.publish(BAD[bad](family.manifest(FIRST), ground))
    family.move(release)
    try:
        ground.until(lambda: ground.endpoint.status()["failed_release"] == release, "it is refused")
        reason = ground.endpoint.status()["error"]
        time.sleep(SOUND_S)
        assert ground.endpoint.serving() == family.first
        assert not reason.startswith("RuntimeError"), f"nothing of ours refused it: {reason}"
    finally:
        family.move(family.first)
        ground.hurt()
    return {"reason": reason}


def _with_backbone(
    manifest: Manifest, ground: Ground, change: Callable[[str, torch.Tensor], torch.Tensor]
) -> Manifest:
    """Model `a` with other tensors, written to the registry."""
    registry = ground.family.registry
    reader = ReleaseReader(registry, ground.family.first)
    tensors = {name: change(name, tensor) for name, tensor in reader.read_backbone("a")}
    blob = registry.write_backbone(tensors)
    model = manifest.models["a"]
    plain = {name: getattr(model, name) for name in type(model).model_fields}
    changed = type(model).model_validate({**plain, "backbone": (blob,)})
    return with_model(manifest, "a", changed)
