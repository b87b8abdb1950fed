"""Counts tensors of models as equal that differ by noise alone, if the recipe says so.

Copies of one model that other tools wrote, or that were converted once more, differ in the last
place of few values. What counts as equal is in `arithmetic/last_place.py`, whose tensors are kept
in `checkpoints/equal_tensors.py`. Merges nothing else.
"""

from dataclasses import replace

from consolidation.checkpoints.equal_tensors import (
    equal_tasks,
    find_equal,
    stand_ins_of,
    with_stand_ins,
)
from consolidation.checkpoints.family import BASE, Family
from consolidation.plan.device_bytes import bytes_on
from consolidation.recipe import Recipe
from consolidation.run.journal import Stages


def under_noise_floor(recipe: Recipe, family: Family, stages: Stages) -> Family:
    """The family, with tensors of other models, or the base, in place of nearly equal ones.

    Reads all new models once. Models that stay in a release that is extended are not compared.
    """
    models = family.checkpoints.items()
    may_differ = [n for n, found in models if n not in recipe.exact and found.adapter is None]
    if not recipe.has_noise_floor or not may_differ:
        return family
    tasks = list(equal_tasks(family.checkpoints, family.base, recipe.exact, recipe.device))
    if len(tasks[0][1].sources) < 2:
        return family
    sizes = [sum(source.num_bytes for _, source in task.sources) for _, task in tasks]
    device_bytes = bytes_on(recipe.device, 2 * max(task.held_bytes for _, task in tasks))
    results = stages.run(
        "noise floor",
        find_equal,
        tasks,
        noun="parts",
        sizes=sizes,
        device_bytes=device_bytes,
    )
    stand_ins = stand_ins_of(tasks, results)
    owners = {**family.checkpoints, **({BASE: family.base} if family.base is not None else {})}
    changed = {name: with_stand_ins(owners[name], own, owners) for name, own in stand_ins.items()}
    return replace(
        family,
        checkpoints={**family.checkpoints, **changed},
        stand_ins=stand_ins,
        originals={name: family.checkpoints[name] for name in stand_ins},
    )
