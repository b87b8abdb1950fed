"""scan → compare → plan → build → validate → publish. Orders the stages; each is a module.

Nothing is written before all input is accounted for and the plan is made; nothing is visible
before the manifest is written, last. What a killed run had finished is taken from the journal.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from consolidation.build.writing import Written, write_backbones, write_experts
from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.checkpoints.family import check_family, check_layers
from consolidation.errors import Refused, RunFailed
from consolidation.evaluation.data import Files, ModelData, check_models, encode, read_files
from consolidation.evaluation.gates import breaches, check_limits
from consolidation.evaluation.validate import ModelTask, Validated, validate_model, validated
from consolidation.plan.search import fewest_bytes, first_trial
from consolidation.plan.solver import budget_bytes
from consolidation.plan.study import Family, Study, study
from consolidation.plan.values import Plan
from consolidation.recipe import Recipe, check_recipe, provenance, recipe_digest
from consolidation.release import (
    Channel,
    ChannelMoved,
    Layer,
    Manifest,
    Model,
    Quality,
    Registry,
    Source,
    expert_bytes,
)
from consolidation.run.executor import Executor, Progress
from consolidation.run.journal import Journal, NoJournal, Stages, StoredJournal
from consolidation.statistics.stored import StatisticsStore
from consolidation.statistics.text import (
    MAX_TOKENS,
    CalibrationFile,
    ModelWindows,
    model_windows,
    parted,
    read_calibration,
)

__all__ = ["Consolidated", "Progress", "Recipe", "consolidate"]


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What came of a run. Of a dry run only the plan."""

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
) -> Consolidated:
    """Carry out a recipe and publish its release; with `dry_run`, only plan, writing nothing.

    `on_plan` is told each plan before anything of the release is written: one, or with a target
    divergence those that are tried.
    Raises `Refused` for input or wishes that cannot be accepted, `RunFailed` when the work could
    not be done, and `ReleaseError` for trouble with the registry; the channel is then as it was.
    """
    check_recipe(recipe)
    registry = Registry(recipe.registry, recipe.family)
    channel = registry.channel(recipe.channel) if recipe.channel is not None else None
    given = _read_given(recipe)
    family = _open(recipe, registry, progress)
    check_models(given.files, family.checkpoints, family.checkpoints, "the recipe")
    windows = {name: given.windows(recipe, name, c) for name, c in family.checkpoints.items()}
    data = encode(given.files, family.checkpoints)
    digest = recipe_digest(recipe, family.checkpoints, family.base, given.calibration)
    with ExitStack() as stack:
        journal: Journal = NoJournal()
        store = StatisticsStore(registry.storage_url, f"work/{digest}")
        if dry_run:
            store = StatisticsStore(stack.enter_context(tempfile.TemporaryDirectory()), "dry")
        else:
            journal = StoredJournal(registry.storage, digest)
        stages = Stages(executor, journal, progress)
        studied = study(recipe, family, windows, store, stages)
        plan = _first_plan(recipe, family, studied)
        if dry_run:
            on_plan(plan)
            return Consolidated(plan)
        written = write_backbones(registry, family, studied, stages)
        trials = _Trials(recipe, registry, family, studied, written, windows, data, stages)
        made = trials.run(plan, on_plan)
        manifest = _manifest(recipe, family, written, made, given.calibration)
        _check_quality(recipe, manifest, made)
        progress(Progress("publish", 0, 1))
        release = registry.publish(manifest, _report(manifest))
        _move_channel(recipe, registry, channel, release)
        journal.close()
        progress(Progress("publish", 1, 1))
        return Consolidated(made.plan, release, manifest)


@dataclass(frozen=True, slots=True)
class _Given:
    """The files that a recipe names, read."""

    calibration: tuple[tuple[str | None, CalibrationFile], ...]
    files: Files

    def windows(self, recipe: Recipe, model: str, checkpoint: Checkpoint) -> ModelWindows:
        """One model's windows: for statistics only where something is to be approximated by them.

        A model that no text is given for gets the default one; without any text for any model
        that is only scored, and nothing is tuned to it.
        """
        own = [file for name, file in self.calibration if name in (None, model)]
        own = own or list(read_calibration(()))
        if self.calibration and recipe.is_lossy:
            return parted(model_windows(own, checkpoint, max_tokens=3 * MAX_TOKENS))
        return ModelWindows((), tuple(model_windows(own, checkpoint)))


def _read_given(recipe: Recipe) -> _Given:
    files = read_files(recipe.tasks, recipe.texts)
    check_limits(recipe.limits, files)
    paths = [path for _, path in recipe.calibration]
    read = read_calibration(paths) if paths else ()
    names = [name for name, _ in recipe.calibration]
    return _Given(tuple(zip(names, read, strict=True)), files)


@dataclass(frozen=True, slots=True)
class _Made:
    """A plan, carried out and validated, and not published."""

    plan: Plan
    layers: tuple[Layer, ...]
    validated: Mapping[str, Validated]

    @property
    def mean_kl(self) -> float:
        """The mean divergence over new models, in nats per token."""
        found = [one.quality.kl for one in self.validated.values()]
        return math.fsum(found) / max(1, len(found))


def _allowed(recipe: Recipe, family: Family) -> int | None:
    """Bytes that the experts may take; None where only what is identical is to be merged."""
    if recipe.expert_bytes is not None:
        return recipe.expert_bytes
    one_model, num_models = family.expert_bytes_one_model, len(family.models)
    return budget_bytes(recipe.expert_budget, one_model, num_models)


def _first_plan(recipe: Recipe, family: Family, studied: Study) -> Plan:
    """The plan that is built, or with a target the one that would be tried first."""
    if recipe.target_kl is None or not family.checkpoints:
        return studied.plan(_allowed(recipe, family))
    return studied.plan(
        first_trial(
            recipe.target_kl * len(family.checkpoints),
            studied.fewest_bytes(),
            studied.plan(None).expert_bytes_after,
            lambda allowed: studied.plan(allowed).error,
        )
    )


@dataclass(frozen=True, slots=True)
class _Trials:
    """Carries plans out."""

    recipe: Recipe
    registry: Registry
    family: Family
    studied: Study
    written: Written
    windows: Mapping[str, ModelWindows]
    data: Mapping[str, ModelData]
    stages: Stages

    def run(self, first: Plan, on_plan: Callable[[Plan], None]) -> _Made:
        """The one plan of a budget; of a target the plan of fewest bytes that reaches it."""
        if self.recipe.target_kl is None or not self.family.checkpoints:
            on_plan(first)
            return self._make(first)
        found: dict[int, _Made] = {}

        def measure(allowed: int) -> float:
            plan = self.studied.plan(allowed)
            on_plan(plan)
            found[allowed] = self._make(plan)
            return found[allowed].mean_kl

        lossless = self.studied.plan(None).expert_bytes_after
        best = fewest_bytes(
            self.recipe.target_kl,
            self.studied.fewest_bytes(),
            lossless,
            lambda allowed: self.studied.plan(allowed).error / len(self.family.checkpoints),
            measure,
        )
        if best not in found:
            measure(best)
        return found[best]

    def _make(self, plan: Plan) -> _Made:
        layers = write_experts(
            self.registry, self.recipe, self.family, self.studied, plan, self.stages
        )
        tasks = [
            (f"{name} {plan.digest}", self._task(name, plan, layers))
            for name in self.family.checkpoints
        ]
        # One model in memory at a time.
        results = self.stages.run("validate", validate_model, tasks, in_flight=1)
        names = list(self.family.checkpoints)
        return _Made(plan, layers, dict(zip(names, map(validated, results), strict=True)))

    def _task(self, name: str, plan: Plan, layers: tuple[Layer, ...]) -> ModelTask:
        checkpoint = self.family.checkpoints[name]
        return ModelTask(
            name=name,
            directory=checkpoint.directory,
            registry=self.registry.url,
            family=self.registry.family,
            modules=tuple(layer.module for layer in layers),
            experts=tuple(
                tuple(
                    (layer.slots[slot], *(layer.residuals[r] for r in plan.residuals(name, i, e)))
                    for e, slot in enumerate(plan.expert_map[name][i])
                )
                for i, layer in enumerate(layers)
            ),
            backbone=self.written.backbones[name],
            merged=name in plan.approximated,
            windows=self.windows[name].scored,
            data=self.data.get(name),
        )


def _open(recipe: Recipe, registry: Registry, progress: Callable[[Progress], None]) -> Family:
    """All checkpoints, accounted for and of one family, with the release that is extended."""
    extended = registry.read_manifest(recipe.extend) if recipe.extend is not None else None
    checkpoints = {}
    for done, name in enumerate(sorted(recipe.models)):
        progress(Progress("open", done, len(recipe.models)))
        checkpoints[name] = open_checkpoint(recipe.models[name])
    progress(Progress("open", len(recipe.models), len(recipe.models)))
    kept: tuple[str, ...] = ()
    if extended is not None:
        for name in recipe.remove:
            if name not in extended.models:
                raise Refused(f"release {recipe.extend} has no model {name!r} to remove")
        gone = {*recipe.remove, *recipe.models}
        kept = tuple(name for name in sorted(extended.models) if name not in gone)
    if not kept and not checkpoints:
        raise Refused("no model would be left")
    base = open_checkpoint(recipe.base) if recipe.base is not None else None
    family = Family(checkpoints, kept, extended, base)
    _check_one_family(recipe, family)
    return family


def _check_one_family(recipe: Recipe, family: Family) -> None:
    configs = {name: found.config for name, found in family.checkpoints.items()}
    together: dict[str, Checkpoint] = dict(family.checkpoints)
    if family.base is not None:
        together["(base)"] = family.base
        configs["(base)"] = family.base.config
    if family.extended is not None:
        one = sorted(family.extended.models)[0]
        configs = {f"{one} of {recipe.extend}": family.extended.models[one].config, **configs}
    check_family(configs)
    if together:
        check_layers(together)
    if family.extended is not None:
        modules = [layer.module for layer in family.extended.layers]
        for name, found in family.checkpoints.items():
            if [layer.module for layer in found.experts] != modules:
                raise Refused(f"model {name!r} has its experts elsewhere than {recipe.extend}")


def _manifest(
    recipe: Recipe,
    family: Family,
    written: Written,
    made: _Made,
    calibration: Sequence[tuple[str | None, CalibrationFile]],
) -> Manifest:
    models: dict[str, Model] = {}
    quality: dict[str, Quality] = {}
    plan = made.plan
    for name in plan.models:
        maps = {"expert_map": plan.expert_map[name], "residual_map": plan.residual_map[name]}
        if name in family.checkpoints:
            checkpoint = family.checkpoints[name]
            found = made.validated[name]
            predicted = (plan.predicted_kl or {}).get(name)
            quality[name] = found.quality.model_copy(update={"predicted_kl": predicted})
            models[name] = Model(
                config=checkpoint.config,
                generation_config=checkpoint.generation_config,
                tokenizer_files=written.tokenizers[name],
                backbone=written.backbones[name],
                source=Source(name=checkpoint.name, digest=written.sources[name]),
                golden=found.golden,
                **maps,
            )
        elif family.extended is not None:
            models[name] = family.extended.models[name].model_copy(update=maps)
            quality[name] = family.extended.quality[name]
    return Manifest(
        family=recipe.family,
        architecture=family.architecture,
        dtype=family.dtype,
        layers=made.layers,
        models=models,
        expert_bytes_before=plan.expert_bytes_before,
        expert_bytes_after=expert_bytes(made.layers, models),
        expert_bytes_one_model=plan.expert_bytes_one_model,
        quality=quality,
        provenance=provenance(recipe, family.base, calibration),
    )


def _report(manifest: Manifest) -> str:
    # What draws plots takes as long to load as the rest of this package together.
    from consolidation.report.page import render_report

    return render_report([(manifest, None)])


def _check_quality(recipe: Recipe, manifest: Manifest, made: _Made) -> None:
    scores = [one.score for one in made.validated.values() if one.score is not None]
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
