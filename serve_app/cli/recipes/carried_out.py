"""The recipe of a release as it was carried out: a file that `consolidate` takes again.

It holds the paths of this machine, and no login that an address may have.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from consolidation.sources.model_source import without_login

if TYPE_CHECKING:
    from consolidation.recipe import Recipe

_SETTINGS = re.compile(r"\?.*")


def recipe_text(recipe: "Recipe", device_memory: int | None) -> str:
    """YAML with what file and options asked for together. Paths are absolute."""
    limits = recipe.limits
    content: dict[str, Any] = {
        "family": recipe.family,
        "registry": _address(recipe.registry),
        "channel": recipe.channel,
        "models": {name: without_login(str(source)) for name, source in recipe.models.items()},
        "base": None if recipe.base is None else without_login(str(recipe.base)),
        "extend": recipe.extend,
        "remove": list(recipe.remove),
        "expert_budget": recipe.expert_budget,
        "target_kl": recipe.target_kl,
        "device_memory": device_memory,
        "max_formats": recipe.max_formats,
        "weights": dict(recipe.weights),
        "exact": sorted(recipe.exact),
        "noise_floor": recipe.noise_floor,
        "device": recipe.device.type,
        "calibration": [
            str(path.absolute()) if model is None else {model: str(path.absolute())}
            for model, path in recipe.calibration
        ],
        "tasks": _paths(recipe.tasks),
        "texts": _paths(recipe.texts),
        "max_kl": limits.max_kl,
        "max_accuracy_drop": limits.max_accuracy_drop,
        "max_perplexity_rise": limits.max_perplexity_rise,
        "min_retained": limits.min_retained,
    }
    given = {key: value for key, value in content.items() if value not in (None, {}, [])}
    text: str = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    return text


def _paths(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path.absolute()) for name, path in paths.items()}


def _address(registry: str) -> str:
    if "://" not in registry:
        return str(Path(registry).absolute())
    return _SETTINGS.sub("", without_login(registry))
