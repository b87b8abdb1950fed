"""Builds and validates plans: one for a budget, several to reach a target divergence.

Publishes nothing. How a search goes is in `plan/search.py`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from consolidation.build.writing import Written, write_experts
from consolidation.checkpoints.family import Family
from consolidation.evaluation.data import ModelData
from consolidation.evaluation.effect import Effect, EffectTask, measure_effect
from consolidation.evaluation.validate import ModelTask, Validated, validate_model, validated
from consolidation.plan.device_bytes import walk_on
from consolidation.plan.least import allowed_bytes
from consolidation.plan.search import fewest_bytes, first_trial
from consolidation.plan.study import Study
from consolidation.plan.values import Plan
from consolidation.recipe import Recipe
from consolidation.release import Layer, Registry
from consolidation.run.executor import Progress
from consolidation.run.journal import Stages
from consolidation.statistics.windows import ModelWindows


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan that was built and validated, not published yet."""

    plan: Plan
    layers: tuple[Layer, ...]
    validated: Mapping[str, Validated]

    @property
    def mean_kl(self) -> float:
        """The mean divergence over new models, in nats per token."""
        found = [one.quality.kl for one in self.validated.values()]
        return math.fsum(found) / max(1, len(found))


def first_plan(
    recipe: Recipe, family: Family, studied: Study, progress: Callable[[Progress], None]
) -> Plan:
    """The plan to build; with a target divergence, the plan to try first."""
    with _planning(progress):
        if recipe.target_kl is None or not family.checkpoints:
            return studied.plan(allowed_bytes(recipe, family))
        return studied.plan(
            first_trial(
                recipe.target_kl * len(family.checkpoints),
                studied.least_bytes(),
                studied.plan(None).expert_bytes_after,
                studied.least_error,
            )
        )


@contextmanager
def _planning(progress: Callable[[Progress], None]) -> Iterator[None]:
    """Shows that a plan is being made, which runs no task."""
    progress(Progress("plan", 0, 1))
    yield
    progress(Progress("plan", 1, 1))


@dataclass(frozen=True, slots=True)
class Trials:
    """What building and validating a plan takes, beside the plan.

    studying: stages whose results other sizes of the same models find.
    """

    recipe: Recipe
    registry: Registry
    family: Family
    studied: Study
    written: Written
    windows: Mapping[str, ModelWindows]
    data: Mapping[str, ModelData]
    stages: Stages
    studying: Stages

    def effects(self) -> dict[str, Effect]:
        """What models can lose, by name; none without a base, or where nothing may be lost.

        A base of another vocabulary has no divergence to be measured.
        """
        base = self.family.base
        if base is None or not self.recipe.is_lossy:
            return {}
        tasks = {
            name: EffectTask(
                name=name,
                checkpoint=self.family.originals.get(name, checkpoint),
                base=base,
                windows=self.windows[name].scored,
                data=self.data.get(name),
                device=self.recipe.device,
            )
            for name, checkpoint in self.family.checkpoints.items()
            if checkpoint.vocab_size == base.vocab_size
        }
        # A layer of one model in memory at a time.
        results = self.studying.run(
            "effect",
            measure_effect,
            [(f"{name} {task.measured_on()}", task) for name, task in tasks.items()],
            noun="models",
            sizes=self._sizes(tasks),
            in_flight=1,
            device_bytes=self._device_bytes(),
            tells=True,
        )
        return {name: Effect(**found) for name, found in zip(tasks, results, strict=True)}

    def run(self, first: Plan, on_plan: Callable[[Plan], None]) -> Trial:
        """Make the plan of the budget, or the plan of fewest bytes that reaches the target."""
        if self.recipe.target_kl is None or not self.family.checkpoints:
            on_plan(first)
            return self._make(first)
        found: dict[int, Trial] = {}

        def measure(allowed: int) -> float:
            with _planning(self.stages.progress):
                plan = self.studied.plan(allowed)
            on_plan(plan)
            found[allowed] = self._make(plan)
            return found[allowed].mean_kl

        lossless = self.studied.plan(None).expert_bytes_after
        best = fewest_bytes(
            self.recipe.target_kl,
            self.studied.least_bytes(),
            lossless,
            lambda allowed: self.studied.least_error(allowed) / len(self.family.checkpoints),
            measure,
        )
        if best not in found:
            measure(best)
        return found[best]

    def _make(self, plan: Plan) -> Trial:
        layers = write_experts(
            self.registry, self.recipe, self.family, self.studied, plan, self.stages
        )
        tasks = [
            (f"{name} {plan.digest}", self._task(name, plan, layers))
            for name in self.family.checkpoints
        ]
        # A layer of one model in memory at a time.
        names = list(self.family.checkpoints)
        results = self.stages.run(
            "validate",
            validate_model,
            tasks,
            noun="models",
            sizes=self._sizes(names),
            in_flight=1,
            device_bytes=self._device_bytes(),
            tells=True,
        )
        return Trial(plan, layers, dict(zip(names, map(validated, results), strict=True)))

    def _device_bytes(self) -> int:
        models = self.family.checkpoints.values()
        return max((walk_on(self.recipe.device, model) for model in models), default=0)

    def _sizes(self, names: Iterable[str]) -> list[int]:
        return [self.family.checkpoints[name].num_bytes for name in names]

    def _task(self, name: str, plan: Plan, layers: tuple[Layer, ...]) -> ModelTask:
        checkpoint = self.family.checkpoints[name]
        return ModelTask(
            name=name,
            checkpoint=checkpoint,
            registry=self.registry.url,
            family=self.registry.family,
            experts=tuple(
                tuple(
                    (
                        *layer.slot_parts(slot),
                        *(layer.residuals[r] for r in plan.residuals(name, i, e)),
                    )
                    for e, slot in enumerate(plan.expert_map[name][i])
                )
                for i, layer in enumerate(layers)
            ),
            backbone=self.written.backbones[name],
            merged=name in plan.approximated,
            windows=self.windows[name].scored,
            data=self.data.get(name),
            original=self.family.originals.get(name),
            device=self.recipe.device,
        )
