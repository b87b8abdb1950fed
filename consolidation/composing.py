"""Composes the manifest of a release from what was built and measured. Writes nothing."""

from collections.abc import Mapping, Sequence

from consolidation.build.writing import Written
from consolidation.checkpoints.family import Family
from consolidation.evaluation.effect import Effect
from consolidation.evaluation.measures import retained
from consolidation.recipe import Recipe, provenance
from consolidation.release import Manifest, Model, Quality, Source, expert_bytes
from consolidation.statistics.text import CalibrationFile
from consolidation.trials import Trial


def compose_manifest(
    recipe: Recipe,
    family: Family,
    written: Written,
    trial: Trial,
    effects: Mapping[str, Effect],
    calibration: Sequence[tuple[str | None, CalibrationFile]],
) -> Manifest:
    """The manifest of a trial. Models that stay keep their entries, with new maps.

    effects: of new models, where they are known.
    """
    models: dict[str, Model] = {}
    quality: dict[str, Quality] = {}
    plan = trial.plan
    for name in plan.models:
        maps = {"expert_map": plan.expert_map[name], "residual_map": plan.residual_map[name]}
        if name in family.checkpoints:
            checkpoint = family.checkpoints[name]
            found = trial.validated[name]
            predicted = (plan.predicted_kl or {}).get(name)
            quality[name] = found.quality.model_copy(
                update={"predicted_kl": predicted, **_effect(found.quality.kl, effects.get(name))}
            )
            models[name] = Model(
                config=checkpoint.config,
                generation_config=checkpoint.generation_config,
                tokenizer_files=written.tokenizers[name],
                backbone=written.backbones[name],
                source=Source(
                    name=checkpoint.name,
                    digest=written.sources[name],
                    quantised=checkpoint.quantised,
                    adapter=checkpoint.adapter.digest() if checkpoint.adapter else None,
                    merged=checkpoint.num_merged,
                    not_served=dict(checkpoint.not_served),
                ),
                golden=found.golden,
                stand_ins=dict(family.stand_ins.get(name, {})),
                **maps,
            )
        elif family.extended is not None:
            models[name] = family.extended.models[name].model_copy(update=maps)
            quality[name] = family.extended.quality[name]
    return Manifest(
        family=recipe.family,
        architecture=family.architecture,
        dtype=family.dtype,
        layers=trial.layers,
        models=models,
        expert_bytes_before=plan.expert_bytes_before,
        expert_bytes_after=expert_bytes(trial.layers, models),
        expert_bytes_one_model=plan.expert_bytes_one_model,
        quality=quality,
        provenance=provenance(recipe, family.base, calibration),
    )


def _effect(kl: float, effect: Effect | None) -> dict[str, float | None]:
    """The fields of a `Quality` that a model's effect tells."""
    if effect is None:
        return {}
    return {"kl_base": effect.kl, "retained": retained(kl, effect.kl)}
