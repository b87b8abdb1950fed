"""Runs the tasks that find the origins of experts and compare the ways to store them.

What a task does is elsewhere (`consolidation/compare`).
"""

from collections.abc import Mapping, Sequence

from consolidation.checkpoints.contents import Contents, User
from consolidation.checkpoints.family import Family
from consolidation.checkpoints.scan import LayerScan
from consolidation.compare.groups import Group
from consolidation.compare.kin import Kin
from consolidation.compare.layer import CompareTask, Distinct, compare_layer
from consolidation.compare.origins import find_origins, parts_of
from consolidation.plan.device_bytes import bytes_on
from consolidation.plan.task_bytes import compare_bytes, tasks_at_once
from consolidation.plan.terms import Extended
from consolidation.recipe import Recipe
from consolidation.release.manifest import DTYPES
from consolidation.run.journal import Stages
from consolidation.statistics.stored import StatisticsStore

PART_BYTES = 256 << 20
"""About how many bytes of experts, as read, one task compares: so that cores end together."""


def fresh(contents: Contents) -> list[int]:
    """Positions of a layer's experts that no kept slot holds unchanged."""
    return [i for i, digest in enumerate(contents.digests) if digest not in contents.kept]


def compare_tasks(
    recipe: Recipe,
    family: Family,
    by_layer: Sequence[Contents],
    scans: Mapping[str, Sequence[LayerScan]],
    of_base: Sequence[LayerScan],
    extended: Extended | None,
    statistics: StatisticsStore | None,
) -> list[CompareTask]:
    tasks = []
    for layer, contents in enumerate(by_layer):
        task = CompareTask(
            layer=layer,
            experts=tuple(
                _distinct(recipe, family, layer, contents, i, scans, extended)
                for i in fresh(contents)
            ),
            base=family.base.experts[layer] if family.base is not None else None,
            base_digests=of_base[layer].digests if family.base is not None else (),
            statistics=statistics,
            dtype=DTYPES[family.dtype],
            slots=extended.manifest.layers[layer].slots if extended is not None else (),
            registry=recipe.registry,
            family=recipe.family,
            max_formats=recipe.max_formats,
            device=recipe.device,
        )
        tasks.append(task)
    return tasks


def find_all_origins(
    tasks: Sequence[CompareTask], stages: Stages, stage: str = "origins"
) -> list[tuple[Kin, ...]]:
    """The kin of each layer, by position in its task."""
    results = stages.run(
        stage,
        find_origins,
        [(str(task.layer), task) for task in tasks],
        noun="layers",
        sizes=[task.num_bytes for task in tasks],
        device_bytes=max(map(_device_bytes, tasks)),
    )
    return [tuple(map(Kin.from_json, found)) for found in results]


def compare(
    family: Family,
    by_layer: Sequence[Contents],
    tasks: Sequence[CompareTask],
    origins: Sequence[Sequence[Kin]],
    stages: Stages,
) -> list[tuple[Group, ...]]:
    """The groups of each layer, without experts that a kept slot holds unchanged."""
    layers = range(len(by_layer))
    parts = [
        (task.layer, number, part, positions)
        for task, found in zip(tasks, origins, strict=True)
        for number, (part, positions) in enumerate(parts_of(task, found, PART_BYTES))
    ]
    task_bytes = max(compare_bytes(family.shape(i), len(family.models)) for i in layers)
    results = stages.run(
        "compare",
        compare_layer,
        [(f"{layer} {number}", part) for layer, number, part, _ in parts],
        noun="parts of layers",
        sizes=[part.num_bytes for _, _, part, _ in parts],
        in_flight=tasks_at_once(task_bytes, max(map(family.layer_bytes, layers))),
        task_bytes=task_bytes,
        device_bytes=max((_device_bytes(part) for _, _, part, _ in parts), default=0),
    )
    groups: list[list[Group]] = [[] for _ in layers]
    for (layer, _, _, positions), result in zip(parts, results, strict=True):
        own = fresh(by_layer[layer])
        there = [own[position] for position in positions]
        groups[layer] += [Group.from_json(group).numbered(there) for group in result]
    return [tuple(found) for found in groups]


def _device_bytes(task: CompareTask) -> int:
    """What a task takes of its device."""
    if not task.experts:
        return 0
    num_models = len({user.model for expert in task.experts for user in expert.users})
    return bytes_on(task.device, compare_bytes(task.experts[0].source.shape, num_models))


def _distinct(
    recipe: Recipe,
    family: Family,
    layer: int,
    contents: Contents,
    position: int,
    scans: Mapping[str, Sequence[LayerScan]],
    extended: Extended | None,
) -> Distinct:
    users = contents.users[position]
    first = users[0]
    kept: set[int] = set()
    if extended is not None:
        models = [extended.manifest.models[name] for name in extended.models]
        kept = {model.expert_map[layer][first.index] for model in models}
    return Distinct(
        source=family.source(first.model, layer),
        index=first.index,
        users=tuple(User(u.model, u.index, recipe.weights.get(u.model, 1.0)) for u in users),
        digest=contents.digests[position],
        unadapted=scans[first.model][layer].unadapted[first.index],
        locked=not recipe.is_lossy or any(user.model in recipe.exact for user in users),
        kept=tuple(sorted(kept)),
    )
