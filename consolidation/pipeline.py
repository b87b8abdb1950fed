"""scan → compare → plan → build → validate → publish. Orders the stages; each is a module.

Nothing is written before all input is accounted for and the plan is made; nothing is visible
before the manifest is written, last. What a killed run had finished is taken from the journal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consolidation.calibration import CalibrationFile, Window, model_windows, read_calibration
from consolidation.checkpoint import Checkpoint, open_checkpoint
from consolidation.errors import Failed, Refused
from consolidation.executor import Executor, Progress
from consolidation.family import check_family, check_layers
from consolidation.journal import Journal, NoJournal, Stages, StoredJournal
from consolidation.plan import Plan
from consolidation.planning import Family, decide
from consolidation.recipe import Recipe, check_recipe, provenance, recipe_digest
from consolidation.release import (
    Channel,
    ChannelMoved,
    Golden,
    Manifest,
    Model,
    Quality,
    Registry,
    Source,
    expert_bytes,
)
from consolidation.validate import ModelTask, quality_and_golden, validate_model
from consolidation.writing import Written, write_release

__all__ = ["Outcome", "Progress", "Recipe", "consolidate"]


@dataclass(frozen=True, slots=True)
class Outcome:
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
) -> Outcome:
    """Carry out a recipe and publish its release; with `dry_run`, only plan, writing nothing.

    `on_plan` is told the plan before anything of the release is written.
    Raises `Refused` for input or wishes that cannot be accepted, `Failed` when the work could not
    be done, and `ReleaseError` for trouble with the registry; the channel is then as it was.
    """
    check_recipe(recipe)
    registry = Registry(recipe.registry, recipe.family)
    channel = registry.channel(recipe.channel) if recipe.channel is not None else None
    calibration = read_calibration(recipe.calibration)
    family = _open(recipe, registry, progress)
    scored = {
        name: tuple(model_windows(calibration, found)) for name, found in family.checkpoints.items()
    }
    journal: Journal = NoJournal()
    if not dry_run:
        digest = recipe_digest(recipe, family.checkpoints, calibration)
        journal = StoredJournal(registry.storage, digest)
    stages = Stages(executor, journal, progress)
    decision = decide(recipe, family, stages)
    on_plan(decision.plan)
    if dry_run:
        return Outcome(decision.plan)
    written = write_release(registry, family, decision, stages)
    results = _validate(registry, family, decision.plan, written, scored, stages)
    manifest = _manifest(recipe, family, decision.plan, written, results, calibration)
    _check_quality(recipe, manifest)
    progress(Progress("publish", 0, 1))
    release = registry.publish(manifest)
    _move_channel(recipe, registry, channel, release)
    journal.close()
    progress(Progress("publish", 1, 1))
    return Outcome(decision.plan, release, manifest)


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
    family = Family(checkpoints, kept, extended)
    _check_one_family(recipe, family)
    return family


def _check_one_family(recipe: Recipe, family: Family) -> None:
    configs = {name: found.config for name, found in family.checkpoints.items()}
    together: dict[str, Checkpoint] = dict(family.checkpoints)
    if recipe.base is not None:
        together["(base)"] = open_checkpoint(recipe.base)
        configs["(base)"] = together["(base)"].config
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


def _validate(
    registry: Registry,
    family: Family,
    plan: Plan,
    written: Written,
    scored: Mapping[str, tuple[Window, ...]],
    stages: Stages,
) -> dict[str, tuple[Quality, Golden]]:
    tasks = []
    for name, checkpoint in family.checkpoints.items():
        rows = plan.expert_map[name]
        experts = tuple(
            tuple((written.layers[layer].slots[slot],) for slot in row)
            for layer, row in enumerate(rows)
        )
        task = ModelTask(
            name=name,
            directory=checkpoint.directory,
            registry=registry.url,
            family=registry.family,
            modules=tuple(layer.module for layer in plan.layers),
            experts=experts,
            backbone=written.backbones[name],
            merged=name in plan.merged_models,
            windows=scored[name],
        )
        tasks.append((name, task))
    # One model in memory at a time.
    results = stages.run("validate", validate_model, tasks, in_flight=1)
    return {
        name: quality_and_golden(result) for (name, _), result in zip(tasks, results, strict=True)
    }


def _manifest(
    recipe: Recipe,
    family: Family,
    plan: Plan,
    written: Written,
    results: dict[str, tuple[Quality, Golden]],
    calibration: tuple[CalibrationFile, ...],
) -> Manifest:
    models: dict[str, Model] = {}
    quality: dict[str, Quality] = {}
    for name in plan.models:
        if name in family.checkpoints:
            checkpoint = family.checkpoints[name]
            quality[name], golden = results[name]
            models[name] = Model(
                config=checkpoint.config,
                generation_config=checkpoint.generation_config,
                tokenizer_files=written.tokenizers[name],
                backbone=written.backbones[name],
                expert_map=plan.expert_map[name],
                source=Source(name=checkpoint.name, digest=written.sources[name]),
                golden=golden,
            )
        elif family.extended is not None:
            before = family.extended.models[name]
            models[name] = before.model_copy(update={"expert_map": plan.expert_map[name]})
            quality[name] = family.extended.quality[name]
    return Manifest(
        family=recipe.family,
        architecture=family.architecture,
        dtype=family.dtype,
        layers=written.layers,
        models=models,
        expert_bytes_before=plan.expert_bytes_before,
        expert_bytes_after=expert_bytes(written.layers, models),
        expert_bytes_one_model=plan.expert_bytes_one_model,
        quality=quality,
        provenance=provenance(recipe, calibration),
    )


def _check_quality(recipe: Recipe, manifest: Manifest) -> None:
    if recipe.max_kl is None:
        return
    above = [
        f"model {name!r} is {quality.kl:.6f}"
        for name, quality in manifest.quality.items()
        if quality.kl > recipe.max_kl
    ]
    if above:
        raise Refused(
            f"{', '.join(above)} nats per token from its original, more than the "
            f"{recipe.max_kl} allowed; nothing was published"
        )


def _move_channel(recipe: Recipe, registry: Registry, before: Channel | None, release: str) -> None:
    """Point the recipe's channel at the release, unless it is no longer where it was before."""
    if recipe.channel is None:
        return
    expected = before.release if before else None
    try:
        registry.move_channel(recipe.channel, release, expected=expected)
    except ChannelMoved as error:
        raise Failed(
            f"release {release} is published, but {error}: someone else moved it meanwhile"
        ) from error
