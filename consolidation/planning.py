"""From opened checkpoints to a plan: runs the tasks that a plan needs. The rules are in plan.py.

Identical experts are found by the scan. Comparing, which reads a layer's experts of all models
at once, is done only when a budget asks for more.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from consolidation.checkpoint import Checkpoint, ExpertsSource
from consolidation.compare import Distinct, Merge, NearestTask, compare_layer, nearest_slots
from consolidation.errors import Refused
from consolidation.extend import Nearest, extend_plan, kept_slots, new_experts
from consolidation.journal import Stages
from consolidation.plan import Plan, Pool, budget_bytes, make_plan, pools
from consolidation.recipe import Recipe
from consolidation.release import Manifest
from consolidation.release.manifest import Dtype
from consolidation.scan import LayerScan, layer_scan, scan_layer


@dataclass(frozen=True, slots=True)
class Family:
    """New checkpoints by name, sorted; and the release that is extended, with its models kept."""

    checkpoints: Mapping[str, Checkpoint]
    kept: tuple[str, ...]
    extended: Manifest | None

    @property
    def modules(self) -> list[str]:
        """The experts modules, by layer."""
        if self.extended is not None:
            return [layer.module for layer in self.extended.layers]
        return [layer.module for layer in self._first.experts]

    @property
    def architecture(self) -> str:
        """The transformers class of all models."""
        return self.extended.architecture if self.extended else self._first.architecture

    @property
    def dtype(self) -> Dtype:
        """The dtype of all models' experts."""
        return self.extended.dtype if self.extended else self._first.dtype

    @property
    def expert_bytes_one_model(self) -> int:
        """Bytes of one model's expert tensors as stored."""
        if self.extended is not None:
            return self.extended.expert_bytes_one_model
        return self._first.expert_bytes

    @property
    def _first(self) -> Checkpoint:
        return next(iter(self.checkpoints.values()))

    def source(self, model: str, layer: int) -> ExpertsSource:
        """Where a new model's experts of one layer are read from."""
        return self.checkpoints[model].experts[layer]


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan, and what the scan found: digests of all new experts."""

    plan: Plan
    scans: Mapping[str, tuple[LayerScan, ...]]


def decide(recipe: Recipe, family: Family, stages: Stages) -> Decision:
    """Scan, compare as far as needed, and plan. Raises `Refused`."""
    num_models = len(family.checkpoints) + len(family.kept)
    allowed = budget_bytes(recipe.expert_budget, family.expert_bytes_one_model, num_models)
    scans = _scan(family, stages)
    layer_pools = pools(family.modules, scans)
    norms = [n for layers in scans.values() for layer in layers for n in layer.square_norms]
    _check_finite(family, scans)
    square_norm = math.fsum(n for n in norms if n is not None)
    if family.extended is not None:
        near = None if allowed is None else _nearest(recipe, family, layer_pools, stages)
        plan = extend_plan(
            family.extended,
            family.kept,
            layer_pools,
            near,
            added=list(family.checkpoints),
            square_norm=square_norm,
            allowed=allowed,
        )
        return Decision(plan, scans)
    plan = make_plan(
        layer_pools,
        None if allowed is None else _compare(family, layer_pools, stages),
        models=list(family.checkpoints),
        slot_bytes=next(iter(scans.values()))[0].file_bytes,
        one_model=family.expert_bytes_one_model,
        square_norm=square_norm,
        allowed=allowed,
    )
    return Decision(plan, scans)


def _scan(family: Family, stages: Stages) -> dict[str, tuple[LayerScan, ...]]:
    tasks = [
        (f"{name} {layer}", source)
        for name, checkpoint in family.checkpoints.items()
        for layer, source in enumerate(checkpoint.experts)
    ]
    found = [layer_scan(result) for result in stages.run("scan", scan_layer, tasks)]
    num_layers = len(family.modules)
    return {
        name: tuple(found[i * num_layers : (i + 1) * num_layers])
        for i, name in enumerate(family.checkpoints)
    }


def _check_finite(family: Family, scans: Mapping[str, tuple[LayerScan, ...]]) -> None:
    for name, layers in scans.items():
        for layer, scan in enumerate(layers):
            for index, norm in enumerate(scan.square_norms):
                if norm is None:
                    raise Refused(
                        f"model {name!r}: expert {index} of {family.modules[layer]} has weights "
                        "that are not finite"
                    )


def _distinct(family: Family, layer: int, pool: Pool, position: int) -> Distinct:
    first = pool.users[position][0]
    return Distinct(family.source(first.model, layer), first.index, len(pool.users[position]))


def _compare(family: Family, layer_pools: list[Pool], stages: Stages) -> list[list[Merge]]:
    tasks = [
        (str(layer), tuple(_distinct(family, layer, pool, i) for i in range(len(pool.users))))
        for layer, pool in enumerate(layer_pools)
    ]
    # Each task holds a layer's experts of all models: one at a time.
    trees = stages.run("compare", compare_layer, tasks, in_flight=1)
    return [[Merge(int(one), int(other), cost) for one, other, cost in tree] for tree in trees]


def _nearest(
    recipe: Recipe, family: Family, layer_pools: list[Pool], stages: Stages
) -> list[dict[int, Nearest]] | None:
    if family.extended is None:
        return None
    kept = kept_slots(family.extended, family.kept)
    fresh = [new_experts(family.extended, i, pool) for i, pool in enumerate(layer_pools)]
    todo = [i for i, positions in enumerate(fresh) if positions and kept[i]]
    tasks = [
        (
            str(layer),
            NearestTask(
                experts=tuple(
                    _distinct(family, layer, layer_pools[layer], i) for i in fresh[layer]
                ),
                slots=tuple(family.extended.layers[layer].slots[slot] for slot in kept[layer]),
                registry=recipe.registry,
                family=recipe.family,
            ),
        )
        for layer in todo
    ]
    results = stages.run("compare", nearest_slots, tasks, in_flight=1)
    found: list[dict[int, Nearest]] = [{} for _ in layer_pools]
    for layer, result in zip(todo, results, strict=True):
        for position, (slot, cost) in zip(fresh[layer], result, strict=True):
            found[layer][position] = Nearest(kept[layer][int(slot)], cost)
    return found
