"""Runs of the pipeline in this process, for tests."""

from pathlib import Path
from typing import Any

import pytest

from consolidation.pipeline import Consolidated, Recipe, consolidate
from consolidation.release import Manifest
from consolidation.run.executor import LocalExecutor
from consolidation.sources.local_sources import local_models, local_source

Paths = dict[str, Path]


def recipe_of(
    registry: Path | str, models: Paths, budget: float | None = None, **fields: Any
) -> Recipe:
    """A recipe for directories. fields: further ones of a `Recipe`; `base` is a directory too."""
    if fields.get("base") is not None:
        fields["base"] = local_source(fields["base"])
    return Recipe("fam", str(registry), local_models(models), expert_budget=budget, **fields)


def run(
    registry: Path | str, models: Paths, budget: float | None = None, **fields: Any
) -> Consolidated:
    """Without the release's report, which takes a seventh of a run to draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consolidation.pipeline._report", lambda _: None)
        return run_with_report(registry, models, budget, **fields)


def run_with_report(
    registry: Path | str, models: Paths, budget: float | None = None, **fields: Any
) -> Consolidated:
    recipe = recipe_of(registry, models, budget, **fields)
    return consolidate(recipe, executor=LocalExecutor())


def manifest_of(outcome: Consolidated) -> Manifest:
    assert outcome.manifest is not None
    return outcome.manifest


def pick(family: Paths, *names: str) -> Paths:
    return {name: family[name] for name in names}


def files(registry: Path) -> set[str]:
    return {str(path.relative_to(registry)) for path in registry.rglob("*") if path.is_file()}
