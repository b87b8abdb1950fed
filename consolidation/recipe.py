"""What to consolidate, and how. Checks what can be checked without opening a file."""

import hashlib
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from consolidation.arithmetic.on_device import CPU
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.evaluation.data import Files
from consolidation.evaluation.gates import QualityLimits
from consolidation.run.kept_results import code_digest
from consolidation.sources.model_source import ModelSource
from consolidation.statistics.text import CalibrationFile
from representation.canonical import canonical_json
from representation.names import NAME_RULE, valid_name


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run of the pipeline.

    `models` says where checkpoints come from, by name. `extend` is a release whose slots stay as
    they are and whose models are kept, except those in `remove` and those given again in `models`.
    `base` is the checkpoint that the models were tuned from: slots may hold its experts.

    At most one of three settings says how much the release may take; without any, nothing is lost:
    every expert comes back to the bit. `expert_budget` is the expert bytes of the release over
    those of one model, `expert_bytes` is in bytes, and `target_kl` asks for the fewest bytes with
    at most this mean divergence over all new models, in nats per token.

    `max_formats` is how many formats the parts of one layer may have, slots and residuals together;
    None: as many as are worth their bytes. `weights` says how much each model counts (1 by
    default), `exact` which models must be served bit for bit. `calibration` has files, each with
    the model it is for, or None for all.
    `noise_floor` says whether tensors which differ by noise alone count as equal; None: where the
    release may take less than all bytes.
    `tasks` and `texts` are, by model, what limits other than that of divergence are measured on.
    `device` is the device of all stages that compute with many numbers. Another kind of device
    adds in another order, so it is a part of what a release is made of.
    `as_file` is all of this as people write it, to be kept beside the release.
    """

    family: str
    registry: str
    models: Mapping[str, ModelSource]
    base: ModelSource | None = None
    extend: str | None = None
    remove: tuple[str, ...] = ()
    expert_budget: float | None = None
    expert_bytes: int | None = None
    target_kl: float | None = None
    max_formats: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()
    noise_floor: bool | None = None
    channel: str | None = None
    calibration: tuple[tuple[str | None, Path], ...] = ()
    tasks: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, Path] = field(default_factory=dict)
    limits: QualityLimits = field(default_factory=QualityLimits)
    device: torch.device = CPU
    as_file: str | None = None

    @property
    def is_lossy(self) -> bool:
        """Whether experts that are not identical may be merged."""
        return (self.expert_budget, self.expert_bytes, self.target_kl) != (None, None, None)

    @property
    def has_noise_floor(self) -> bool:
        """Whether tensors of models that are not exact count as equal if only noise differs."""
        return self.is_lossy if self.noise_floor is None else self.noise_floor


def check_recipe(recipe: Recipe) -> None:
    """Raise `Refused` for a recipe that can never be carried out."""
    names = [("family", recipe.family), *(("model", name) for name in recipe.models)]
    if recipe.channel is not None:
        names.append(("channel", recipe.channel))
    for kind, name in names:
        if not valid_name(name):
            raise Refused(f"{kind} {name!r} is not a name: {NAME_RULE}")
    if not recipe.models and recipe.extend is None:
        raise Refused("no model given")
    if recipe.extend is None and recipe.remove:
        raise Refused("models can only be removed from a release that is extended")
    if recipe.extend is not None and not recipe.models and not recipe.remove:
        raise Refused(f"nothing to add to release {recipe.extend}, and nothing to remove")
    for name in recipe.remove:
        if name in recipe.models:
            raise Refused(f"model {name!r} is both given and removed")
    _check_sources(recipe)
    _check_models(recipe)
    _check_numbers(recipe)


def _check_sources(recipe: Recipe) -> None:
    """Refuse paths that are not UTF-8: a manifest has the names of these files, as text."""
    bases = () if recipe.base is None else (recipe.base,)
    given = [*recipe.models.values(), *bases, *(path for _, path in recipe.calibration)]
    for name in map(str, given):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise Refused(f"the path {name!r} is not UTF-8, so no release can name it") from error


def _check_models(recipe: Recipe) -> None:
    named = [
        *((name, "a weight") for name in recipe.weights),
        *((name, "exactness") for name in sorted(recipe.exact)),
        *((name, "calibration text") for name, _ in recipe.calibration if name is not None),
    ]
    for name, what in named:
        if name not in recipe.models:
            there = ", ".join(sorted(recipe.models)) or "none"
            raise Refused(f"{what} is given for {name!r}, which is not a new model: {there}")


def _check_numbers(recipe: Recipe) -> None:
    sizes = {
        "an expert budget": recipe.expert_budget,
        "a number of bytes for experts": recipe.expert_bytes,
        "a target divergence": recipe.target_kl,
    }
    given = [what for what, value in sizes.items() if value is not None]
    if len(given) > 1:
        raise Refused(f"{given[0]} and {given[1]} both say how much the release may take")
    for what, value in sizes.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise Refused(f"{what} of {value} is not a positive number")
    if recipe.max_formats is not None and recipe.max_formats < 1:
        raise Refused(f"at most {recipe.max_formats} formats a layer are too few: it needs 1")
    for name, weight in recipe.weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise Refused(f"model {name!r}: a weight of {weight} is not a positive number")


def versions() -> dict[str, str]:
    """Versions of the software that makes the release."""
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
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    calibration: Sequence[tuple[str | None, CalibrationFile]],
    files: Files,
) -> str:
    """Results of tasks may be reused under the same digest: same files, same wishes.

    Channel and limits of quality are left out: they change only what is done with the results.
    """
    measured = {
        "tasks": {name: file.digest for name, file in files.tasks.items()},
        "texts": {name: file.digest for name, file in files.texts.items()},
    }
    study = _study(recipe, checkpoints, base, calibration)
    whole = {**study, **_size(recipe), **measured}
    return hashlib.sha256(canonical_json(whole)).hexdigest()[:32]


def study_digest(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    calibration: Sequence[tuple[str | None, CalibrationFile]],
) -> str:
    """The same for what does not depend on how much the release may take, only on whether it may
    lose anything; and on the code, since it is kept for longer.
    """
    content = _study(recipe, checkpoints, base, calibration)
    whole = {**content, "is_lossy": recipe.is_lossy, "code": code_digest()}
    return hashlib.sha256(canonical_json(whole)).hexdigest()[:32]


def _study(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    calibration: Sequence[tuple[str | None, CalibrationFile]],
) -> dict[str, Any]:
    return {
        "family": recipe.family,
        "models": {
            name: [str(found.directory), found.fingerprint] for name, found in checkpoints.items()
        },
        "extend": recipe.extend,
        "remove": sorted(recipe.remove),
        "base": [str(base.directory), base.fingerprint] if base is not None else None,
        **_wishes_but_size(recipe),
        "calibration": [[model, file.digest] for model, file in calibration],
        "versions": versions(),
    }


def provenance(
    recipe: Recipe,
    base: Checkpoint | None,
    calibration: Sequence[tuple[str | None, CalibrationFile]],
) -> dict[str, Any]:
    """How the release was made, for its manifest. No paths, no times."""
    return {
        **versions(),
        **_wishes(recipe),
        "base": base.name if base is not None else None,
        **({"base_quantised": base.quantised} if base and base.quantised else {}),
        "calibration": [
            {"name": file.name, "digest": file.digest, "model": model}
            for model, file in calibration
        ],
        "extended_from": recipe.extend,
    }


def _wishes(recipe: Recipe) -> dict[str, Any]:
    return {**_size(recipe), **_wishes_but_size(recipe)}


def _size(recipe: Recipe) -> dict[str, Any]:
    return {
        "budget": recipe.expert_budget,
        "bytes": recipe.expert_bytes,
        "target_kl": recipe.target_kl,
    }


def _wishes_but_size(recipe: Recipe) -> dict[str, Any]:
    return {
        "max_formats": recipe.max_formats,
        "weights": dict(sorted(recipe.weights.items())),
        "exact": sorted(recipe.exact),
        "noise_floor": recipe.has_noise_floor,
        **({"device": recipe.device.type} if recipe.device.type != "cpu" else {}),
    }
