"""What is to be consolidated, as asked. Checks what can be checked without opening a file."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from consolidation.calibration import CalibrationFile
from consolidation.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.release.manifest import canonical_json, valid_name


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run of the pipeline.

    `models` are checkpoints by name. `extend` is a release whose slots stay as they are and whose
    models are kept, except those in `remove` and those given anew in `models`. `base` is the
    checkpoint that the models were tuned from: it must be of the family, and is not stored, as
    slots of this format never refer to it. `expert_budget` is expert bytes of the release over
    those of one model; None merges only what is identical. `max_kl` is in nats per token.
    """

    family: str
    registry: str
    models: Mapping[str, Path]
    base: Path | None = None
    extend: str | None = None
    remove: tuple[str, ...] = ()
    expert_budget: float | None = None
    channel: str | None = None
    calibration: tuple[Path, ...] = ()
    max_kl: float | None = None


def check_recipe(recipe: Recipe) -> None:
    """Raise `Refused` for what can never be right."""
    names = [("family", recipe.family), *(("model", name) for name in recipe.models)]
    if recipe.channel is not None:
        names.append(("channel", recipe.channel))
    for kind, name in names:
        if not valid_name(name):
            raise Refused(f"{kind} {name!r}: letters, digits and . _ : - only")
    if not recipe.models and recipe.extend is None:
        raise Refused("no model given")
    if recipe.extend is None and recipe.remove:
        raise Refused("models can only be removed from a release that is extended")
    if recipe.extend is not None and not recipe.models and not recipe.remove:
        raise Refused(f"nothing to add to release {recipe.extend}, and nothing to remove")
    for name in recipe.remove:
        if name in recipe.models:
            raise Refused(f"model {name!r} is both given and removed")
    if recipe.max_kl is not None and not recipe.max_kl >= 0:
        raise Refused(f"a largest divergence of {recipe.max_kl} is not a number from 0 upwards")


def versions() -> dict[str, str]:
    """What the release was made with."""
    try:
        own = importlib.metadata.version("expertpool")
    except importlib.metadata.PackageNotFoundError:
        own = "unknown"
    return {
        "expertpool": own,
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }


def recipe_digest(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], calibration: Sequence[CalibrationFile]
) -> str:
    """What results of tasks may be used again for: the same files, asked for the same release.

    Channel and limits of quality are left out: they change what is done with the results.
    """
    content: dict[str, Any] = {
        "family": recipe.family,
        "models": {
            name: [str(found.directory), found.fingerprint] for name, found in checkpoints.items()
        },
        "extend": recipe.extend,
        "remove": sorted(recipe.remove),
        "budget": recipe.expert_budget,
        "calibration": [file.digest for file in calibration],
        "versions": versions(),
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()[:32]


def provenance(recipe: Recipe, calibration: Sequence[CalibrationFile]) -> dict[str, Any]:
    """What the manifest says of how a release was made. No paths, no times."""
    return {
        **versions(),
        "budget": recipe.expert_budget,
        "calibration": [{"name": file.name, "digest": file.digest} for file in calibration],
        "extended_from": recipe.extend,
    }
