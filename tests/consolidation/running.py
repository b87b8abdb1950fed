"""Runs of the pipeline in this process, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from consolidation.pipeline import Consolidated, Recipe, consolidate
from consolidation.release import Manifest
from consolidation.run.executor import LocalExecutor
from consolidation.sources.local_sources import local_models, local_source
from consolidation.statistics.windows import model_windows

Paths = dict[str, Path]

SCORED_TOKENS = 3 * 256
"""Of the default text, by which a tiny model is judged: three windows of its context."""
TUNED_TOKENS = 1024
"""Half of the calibration text that is used at most; texts of tests are shorter."""
GOLDEN_TOKENS = 4


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
    return consolidated(recipe_of(registry, models, budget, **fields))


def consolidated(recipe: Recipe, **how: Any) -> Consolidated:
    """Without the release's report, and with little to validate: together half of a tiny run.

    how: of `consolidate`; the executor is one of this process, unless it is told.
    """
    with little_to_validate(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("consolidation.pipeline._report", lambda _: None)
        return consolidate(recipe, **{"executor": LocalExecutor(), **how})


@contextmanager
def little_to_validate() -> Iterator[None]:
    """Models are judged by few windows and a short golden prompt."""
    few = partial(model_windows, max_tokens=SCORED_TOKENS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consolidation.pipeline.MAX_TOKENS", TUNED_TOKENS)
        patch.setattr("consolidation.pipeline.model_windows", few)
        patch.setattr("consolidation.evaluation.golden_prompts.GOLDEN_TOKENS", GOLDEN_TOKENS)
        yield


def run_whole(
    registry: Path | str, models: Paths, budget: float | None = None, **fields: Any
) -> Consolidated:
    """As the command line runs it."""
    recipe = recipe_of(registry, models, budget, **fields)
    return consolidate(recipe, executor=LocalExecutor())


def manifest_of(outcome: Consolidated) -> Manifest:
    assert outcome.manifest is not None
    return outcome.manifest


def pick(family: Paths, *names: str) -> Paths:
    return {name: family[name] for name in names}


def files(registry: Path) -> set[str]:
    return {str(path.relative_to(registry)) for path in registry.rglob("*") if path.is_file()}
