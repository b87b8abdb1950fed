"""scan → compare → plan → build → validate → publish. Puts the stages in order; each is elsewhere.

Nothing is written before all input is accounted for and the plan is made. Nothing is visible
before the manifest is written, which comes last. A run that was killed continues from its journal.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from consolidation.build.writing import write_backbones
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.checkpoints.family import Family, open_family
from consolidation.checkpoints.notes import note_nothing
from consolidation.composing import compose_manifest
from consolidation.errors import Refused, RunFailed
from consolidation.evaluation.data import Files, check_models, encode, read_files
from consolidation.evaluation.effect import Effect
from consolidation.evaluation.gates import breaches, check_limits
from consolidation.noise_floor import under_noise_floor
from consolidation.plan.least import check_one_model
from consolidation.plan.memory_needs import Free, check_memory
from consolidation.plan.study import make_study
from consolidation.plan.values import Plan
from consolidation.recipe import Recipe, check_recipe, recipe_digest, study_digest
from consolidation.release import Channel, ChannelMoved, Manifest, Registry
from consolidation.run.executor import Executor, Progress
from consolidation.run.journal import Journal, NoJournal, Stages, StoredJournal
from consolidation.run.kept_results import KeptResults
from consolidation.sources.bringing import look_up
from consolidation.statistics.stored import open_statistics
from consolidation.statistics.text import CalibrationFile, read_calibration
from consolidation.statistics.windows import MAX_TOKENS, ModelWindows, model_windows, parted
from consolidation.trials import Trial, Trials, first_plan

__all__ = ["Consolidated", "Progress", "Recipe", "consolidate"]

NO_LIMIT = Free()


@dataclass(frozen=True, slots=True)
class Consolidated:
    """The result of a run; of a dry run only the plan."""

    plan: Plan
    release: str | None = None
    manifest: Manifest | None = None


def consolidate(
    recipe: Recipe,
    *,
    executor: Executor,
    progress: Callable[[Progress], None] = lambda _: None,
    on_plan: Callable[[Plan], None] = lambda _: None,
    dry_run: bool = False,
    free: Free = NO_LIMIT,
) -> Consolidated:
    """Carry out a recipe and publish its release; with `dry_run`, only plan, writing nothing.

    `free` is the memory that the run may take: what cannot fit is refused before it starts.
    `on_plan` gets each plan before it is built: one, or with a target divergence every plan that
    is tried. Raises `Refused` for bad input or wishes that cannot be met, `RunFailed` when the
    work could not be done, and `ReleaseError` for trouble with the registry; the channel is then
    as it was.
    """
    now = datetime.now(UTC)
    check_recipe(recipe)
    registry = Registry(recipe.registry, recipe.family)
    registry.storage.check()
    channel = registry.channel(recipe.channel) if recipe.channel is not None else None
    given = _read_given(recipe)
    family = _open(recipe, registry, free, progress)
    check_models(given.files, family.checkpoints, family.checkpoints, "the recipe")
    windows = _windows(recipe, given, family)
    data = encode(given.files, family.checkpoints)
    read = (family.checkpoints, family.base, given.calibration)
    digest, of_study = recipe_digest(recipe, *read, given.files), study_digest(recipe, *read)
    with ExitStack() as stack:
        journal: Journal = NoJournal()
        scratch = None
        if dry_run:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
        else:
            registry.storage.tidy()
            journal = stack.enter_context(StoredJournal(registry.storage, digest))
        kept = KeptResults(registry.storage, of_study, now, is_read_only=dry_run)
        stages = Stages(executor, journal, progress)
        studying = replace(stages, journal=kept)
        check_one_model(recipe, family, studying)
        family = under_noise_floor(recipe, family, studying)
        opened = partial(open_statistics, registry.storage_url, now=now, scratch=scratch)
        studied = make_study(recipe, family, windows, opened, studying, now)
        plan = first_plan(recipe, family, studied, progress)
        if dry_run:
            on_plan(plan)
            return Consolidated(plan)
        written = write_backbones(registry, family, studied, stages)
        trials = Trials(recipe, registry, family, studied, written, windows, data, stages, studying)
        effects = trials.effects()
        trial = trials.run(plan, on_plan)
        manifest = compose_manifest(recipe, family, written, trial, effects, given.calibration)
        _check_quality(recipe, manifest, trial, effects)
        progress(Progress("publish", 0, 1))
        release = registry.publish(manifest, _report(manifest), recipe.as_file)
        _move_channel(recipe, registry, channel, release)
        journal.close()
        progress(Progress("publish", 1, 1))
        return Consolidated(trial.plan, release, manifest)


def _open(
    recipe: Recipe, registry: Registry, free: Free, progress: Callable[[Progress], None]
) -> Family:
    """The family, when its files are here. What headers tell is refused before weights come."""
    opening = partial(
        open_family,
        registry,
        extend=recipe.extend,
        remove=recipe.remove,
        opened=lambda done: progress(Progress("open", done, len(recipe.models))),
    )
    located = look_up(recipe.models, recipe.base)
    with located.headers() as (files, base):
        family = opening(files, base=base)
        check_memory(family, free, is_lossy=recipe.is_lossy, device=recipe.device)
    if located.is_here:
        return family
    files, base = located.fetch(progress)
    return opening(files, base=base, note=note_nothing)


@dataclass(frozen=True, slots=True)
class _Given:
    """The files that a recipe names, read."""

    calibration: tuple[tuple[str | None, CalibrationFile], ...]
    files: Files

    def windows(self, recipe: Recipe, model: str, checkpoint: Checkpoint) -> ModelWindows:
        """One model's windows; some for statistics only where the plan may approximate.

        A model without text of its own gets the default text. Where no text was given for any
        model, the default text is only scored and nothing is tuned to it.
        """
        own = [file for name, file in self.calibration if name in (None, model)]
        own = own or list(read_calibration(()))
        if self.calibration and recipe.is_lossy:
            return parted(model_windows(own, checkpoint, max_tokens=2 * MAX_TOKENS))
        return ModelWindows((), tuple(model_windows(own, checkpoint)))


def _windows(recipe: Recipe, given: _Given, family: Family) -> dict[str, ModelWindows]:
    """Every model's windows, by its name; a warning for a text that is too short to go by."""
    windows = {name: given.windows(recipe, name, c) for name, c in family.checkpoints.items()}
    if given.calibration:
        for name, found in windows.items():
            found.warn_of_little(name, family.checkpoints[name].experts[0].num_experts)
    return windows


def _read_given(recipe: Recipe) -> _Given:
    files = read_files(recipe.tasks, recipe.texts)
    check_limits(recipe.limits, files, has_base=recipe.base is not None)
    paths = [path for _, path in recipe.calibration]
    read = read_calibration(paths) if paths else ()
    names = [name for name, _ in recipe.calibration]
    return _Given(tuple(zip(names, read, strict=True)), files)


def _report(manifest: Manifest) -> str:
    # What draws plots takes as long to load as the rest of this package together.
    from consolidation.report.page import render_report

    return render_report([(manifest, None)])


def _check_quality(
    recipe: Recipe, manifest: Manifest, trial: Trial, effects: Mapping[str, Effect]
) -> None:
    scores = [
        replace(one.score, kl_base=effects[name].own) if name in effects else one.score
        for name, one in trial.validated.items()
        if one.score is not None
    ]
    above = breaches(recipe.limits, manifest.quality, scores)
    if above:
        raise Refused("\n".join([*above, "nothing was published"]))


def _move_channel(recipe: Recipe, registry: Registry, before: Channel | None, release: str) -> None:
    """Point the recipe's channel at the release, unless it is no longer where it was before."""
    if recipe.channel is None:
        return
    expected = before.release if before else None
    try:
        registry.move_channel(recipe.channel, release, expected=expected)
    except ChannelMoved as error:
        raise RunFailed(
            f"release {release} is published, but {error}: someone else moved it meanwhile"
        ) from error
