"""What consolidating a recipe on a cluster takes: files, memory, disk. Reads headers of models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.cli.errors import WrongUse
from serve_app.cli.parsing import parse_models, parse_source
from serve_app.k8s.recipe_pod import FILE, RecipeRun

if TYPE_CHECKING:
    from consolidation.sources.model_source import ModelSource
    from serve_app.cli.recipes.recipe_file import RecipeFile


def recipe_run(path: Path, registry: str, family: str) -> RecipeRun:
    """Looks models up where they are, and fetches no weights.

    Raises: WrongUse for a file, or for what it names that no pod can read; Refused; RunFailed.
    """
    from consolidation.checkpoints.family import open_family
    from consolidation.plan.memory_needs import memory_needs
    from consolidation.release import Registry
    from consolidation.sources.bringing import look_up
    from serve_app.cli.recipes.recipe_file import read_recipe_file

    recipe = read_recipe_file(path)
    files = _files(path, recipe)
    models = parse_models([f"{name}={one}" for name, one in (recipe.models or {}).items()])
    base = parse_source(recipe.base, hint="base") if recipe.base is not None else None
    for name, source in [*models.items(), *([("base", base)] if base is not None else [])]:
        _check_source(path, name, source)
    located = look_up(models, base)
    with located.headers() as (model_files, base_files):
        opened = open_family(
            Registry(registry, family),
            model_files,
            base=base_files,
            extend=recipe.extend,
            remove=tuple(recipe.remove or ()),
            opened=lambda _: None,
        )
    is_lossy = any((recipe.expert_budget, recipe.target_kl, recipe.device_memory))
    needs = memory_needs(opened, is_lossy=is_lossy)
    most = max((need.num_bytes for need in needs), default=0)
    return RecipeRun(files, most, located.num_bytes)


def _files(path: Path, recipe: RecipeFile) -> dict[str, str]:
    """The recipe, and the texts that it names, which must lie beside it."""
    found = {FILE: path.read_text(encoding="utf-8")}
    directory = path.expanduser().absolute().parent
    for key, named in _named(recipe):
        file = Path(named)
        if file.parent != directory or file.name == FILE:
            raise WrongUse(
                f"recipe {path}: {key}: {named}: a pod gets the recipe and files beside it, "
                f"in {directory}"
            )
        try:
            found[file.name] = file.read_text(encoding="utf-8")
        except OSError as error:
            raise WrongUse(f"recipe {path}: {key}: {named}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise WrongUse(f"recipe {path}: {key}: {named}: is no text in UTF-8") from error
    return found


def _named(recipe: RecipeFile) -> Iterator[tuple[str, str]]:
    """Files that a recipe names, with the key."""
    for item in recipe.calibration or ():
        _, _, of_model = ("", "", item) if item.startswith("/") else item.partition("=")
        yield "calibration", of_model
    for key, paths in (("tasks", recipe.tasks), ("texts", recipe.texts)):
        for named in (paths or {}).values():
            yield key, named


def _check_source(path: Path, name: str, source: ModelSource) -> None:
    """Raise WrongUse unless a pod can read it."""
    from consolidation.sources.model_source import Kind

    places = [source, *([source.adapter] if source.adapter is not None else [])]
    for place in places:
        if place.kind is Kind.DIRECTORY:
            raise WrongUse(
                f"recipe {path}: {name}: {place.source} is a directory of this machine, which no "
                "pod has: give an address (s3://…) or a name on the hub"
            )
